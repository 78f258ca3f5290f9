"""The step: what is minimised, at which rate, and what is counted."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from depthlab.data.batch import SPLITS, Batch
from depthlab.tasks.task import ClassificationTask
from depthlab.training.meter import Totals

from .small import LR_OF_STEP, batch, classifier


def gradients(weights: dict[str, Tensor], data: Batch) -> dict[str, Tensor]:
    """Of the mean cross-entropy of a linear layer, written out: (softmax - one-hot) x / n."""
    x = data.images.flatten(1)
    delta = torch.softmax(x @ weights["1.weight"].T + weights["1.bias"], 1) - F.one_hot(data.labels, 3)
    return {"1.weight": delta.T @ x / len(x), "1.bias": delta.mean(0)}


def test_the_loss_is_the_mean_cross_entropy() -> None:
    module, data = classifier(), batch()
    assert torch.equal(module.training_step(data, 0), F.cross_entropy(module.network(data.images), data.labels))


def test_training_counts_loss_and_error_of_every_batch() -> None:
    module = classifier()
    batches = [batch(seed=0, n=6), batch(seed=1, n=2)]
    losses = [module.training_step(data, 0).item() for data in batches]
    wrong = sum((module(data.images).argmax(1) != data.labels).sum().item() for data in batches)
    totals = Totals.of(module.train_meter)
    assert totals.loss == pytest.approx((6 * losses[0] + 2 * losses[1]) / 8)
    assert module.values(totals)["err"] == pytest.approx(100 * wrong / 8)
    assert not module.train_meter.loss_sum.requires_grad


def mixed_batch() -> tuple[Batch, Tensor]:
    """Mixed images, and their labels as probabilities (n, 3)."""
    plain, weight = batch(), torch.tensor([0.0, 0.25, 0.5, 0.7, 0.9, 1.0])
    others = plain.labels.roll(1)
    shares = weight[:, None] * F.one_hot(plain.labels, 3) + (1 - weight[:, None]) * F.one_hot(others, 3)
    return plain._replace(other_labels=others, weight=weight), shares


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_images_is_that_of_their_shares(smoothing: float) -> None:
    data, shares = mixed_batch()
    module = classifier(task=ClassificationTask(label_smoothing=smoothing))
    scores = module.network(data.images)
    expected = F.cross_entropy(scores, shares, label_smoothing=smoothing)
    assert module.training_step(data, 0).item() == pytest.approx(expected.item(), rel=1e-6)
    assert expected.item() != pytest.approx(F.cross_entropy(scores, data.labels).item(), rel=1e-3)
    totals = Totals.of(module.train_meter)
    assert totals.loss == pytest.approx(expected.item(), rel=1e-6)
    right = (shares * F.one_hot(scores.argmax(1), 3)).sum(1)
    assert module.values(totals)["err"] == pytest.approx(100 * (1 - right.mean().item()), rel=1e-5)


def test_labels_are_smoothed_in_training_and_not_in_evaluation() -> None:
    smooth, sharp = classifier(task=ClassificationTask(label_smoothing=0.1)), classifier()
    data = batch()
    uniform = torch.log_softmax(smooth(data.images), 1).mean(1)
    expected = 0.9 * sharp.training_step(data, 0) - 0.1 * uniform.mean()
    assert smooth.training_step(data, 0).item() == pytest.approx(expected.item(), rel=1e-6)
    for module in (smooth, sharp):
        module.validation_step(batch("val"), 0)
        module.test_step(batch("test"), 0)
    for split in ("val", "test"):
        assert Totals.of(smooth.eval_meter(split)).as_list() == Totals.of(sharp.eval_meter(split)).as_list()


@pytest.mark.parametrize("split", SPLITS)
def test_evaluation_counts_towards_its_own_split(split: str) -> None:
    module, data = classifier(), batch(split)
    module.test_step(data, 0)
    module.validation_step(data, 0)
    counted = {name: Totals.of(module.eval_meter(name)).num_images for name in SPLITS}
    assert counted == {name: 12 if name == split else 0 for name in SPLITS}
    assert Totals.of(module.eval_meter(split)).loss == pytest.approx(module.training_step(data, 0).item())


@pytest.mark.parametrize("start", ["on_validation_epoch_start", "on_test_epoch_start"])
def test_evaluation_begins_at_nothing(start: str) -> None:
    module = classifier()
    for split in SPLITS:
        module.validation_step(batch(split), 0)
    getattr(module, start)()
    assert all(Totals.of(module.eval_meter(split)).num_images == 0 for split in SPLITS)


def test_scores_are_float32_whatever_the_network_computes_in() -> None:
    module = classifier()
    module.network.bfloat16()
    assert module(torch.zeros(1, 1, 1, 4, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("first_step", [0, 2])
def test_each_update_uses_the_rate_of_the_modules_own_counter(first_step: int) -> None:
    module = classifier()
    module.step = first_step
    optimizer = module.configure_optimizers()
    rates: list[float] = []
    optimizer.register_step_pre_hook(lambda *args: rates.append(optimizer.param_groups[0]["lr"]))
    for _ in range(2):
        module.optimizer_step(epoch=9, batch_idx=99, optimizer=optimizer, optimizer_closure=lambda: None)
    assert rates == LR_OF_STEP[first_step : first_step + 2]
    assert module.step == first_step + 2


@pytest.mark.filterwarnings("ignore:You defined a .validation_step.", "ignore:.*LeafSpec")
def test_lightning_trains_as_a_loop_by_hand_does() -> None:
    momentum, decay = 0.9, 0.1
    module = classifier(momentum, decay)
    weights = {name: value.clone() for name, value in module.network.state_dict().items()}
    batches = [batch(seed=seed) for seed in range(3)]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    velocity = {name: torch.zeros_like(value) for name, value in weights.items()}
    for data, rate in zip(batches, LR_OF_STEP, strict=False):
        gradient = gradients(weights, data)
        for name in weights:
            velocity[name] = momentum * velocity[name] + gradient[name] + decay * weights[name]
            weights[name] = weights[name] - rate * velocity[name]
    assert module.step == 3
    for name, value in module.network.state_dict().items():
        assert torch.allclose(value, weights[name], atol=1e-6)
