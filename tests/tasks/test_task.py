"""Losses and metrics of tasks against their definitions, torchmetrics and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import r2_score
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import R2Score

from depthlab.data.batch import Batch
from depthlab.tasks.components.classification import Classification
from depthlab.tasks.components.focal import Focal
from depthlab.tasks.components.huber import Huber
from depthlab.tasks.components.regression import Regression
from depthlab.tasks.components.top5 import Top5Error
from depthlab.tasks.spec import LossSpec, MetricSpec, TaskSpec
from depthlab.tasks.task import ClassificationTask, RegressionTask, Task

RANDOM = torch.Generator().manual_seed(0)
SCORES, LABELS = torch.randn(50, 10, generator=RANDOM), torch.randint(0, 10, (50,), generator=RANDOM)
SHAPES = [(1,), (3,), (2, 4, 4)]


def regression(shape: tuple[int, ...], n: int = 40) -> tuple[Tensor, Tensor]:
    """Outputs and targets that are related, about a mean far from 0."""
    targets = 5 + torch.randn(n, *shape, generator=RANDOM)
    return targets + 0.3 * torch.randn(n, *shape, generator=RANDOM), targets


def measured(task: Task, outputs: Tensor, targets: Tensor, sizes: tuple[int, ...] = (7, 1, 32)) -> dict[str, float]:
    """The metrics of all images, counted in batches of such sizes."""
    parts = zip(outputs.split(sizes), targets.split(sizes), strict=True)
    counted = [task.sums(scores, Batch(scores, labels, "val")) for scores, labels in parts]
    sums = [float(torch.stack(each).double().sum()) for each in zip(*counted, strict=True)]
    assert len(sums) == task.num_sums
    return task.values(sums, sum(sizes))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_r2_and_mse_are_those_of_torchmetrics_and_scikit_learn_on_the_pooled_values(shape: tuple[int, ...]) -> None:
    outputs, targets = regression(shape)
    found = measured(RegressionTask(), outputs, targets)
    pooled = R2Score()
    pooled.update(outputs.flatten(), targets.flatten())
    assert found["r2"] == pytest.approx(pooled.compute().item(), abs=1e-4)
    assert found["r2"] == pytest.approx(r2_score(targets.flatten().numpy(), outputs.flatten().numpy()), abs=1e-4)
    assert found["mse"] == pytest.approx(F.mse_loss(outputs, targets).item(), rel=1e-5)
    assert 0.5 < found["r2"] < 1


def test_r2_of_the_mean_is_0_and_of_targets_that_do_not_vary_is_nan() -> None:
    _, targets = regression((3,))
    assert measured(RegressionTask(), targets.mean().expand_as(targets), targets)["r2"] == pytest.approx(0, abs=1e-4)
    constant = torch.ones(40, 3)
    assert math.isnan(measured(RegressionTask(), constant + 1, constant)["r2"])


def test_nothing_seen_is_nan_not_zero() -> None:
    assert all(math.isnan(value) for value in RegressionTask().values([0.0, 0.0, 0.0], 0).values())
    assert math.isnan(ClassificationTask().values([0.0], 0)["err"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", [None, Huber(delta=0.2)], ids=["mse", "huber"])
def test_the_loss_that_is_evaluated_is_the_sum_of_the_one_that_is_minimised(
    shape: tuple[int, ...], loss: LossSpec | None
) -> None:
    outputs, targets = regression(shape)
    task = RegressionTask(loss)
    mean = task.train_loss(outputs, Batch(outputs, targets, "train"))
    assert task.loss_sum(outputs, targets).item() == pytest.approx(40 * mean.item(), rel=1e-5)


@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_huber_is_squared_below_delta_and_linear_beyond(delta: float) -> None:
    errors = torch.tensor([[0.05], [0.5], [-3.0]])
    found = Huber(delta=delta).per_image(errors, torch.zeros(3, 1), 0.0)
    expected = [e * e / 2 if abs(e) <= delta else delta * (abs(e) - delta / 2) for e in errors.flatten().tolist()]
    assert found.tolist() == pytest.approx(expected)


def test_focal_loss_of_gamma_0_is_cross_entropy() -> None:
    found = Focal(gamma=0).per_image(SCORES, LABELS, 0.1)
    assert torch.equal(found, F.cross_entropy(SCORES, LABELS, reduction="none", label_smoothing=0.1))


def test_focal_loss_counts_certain_answers_less() -> None:
    probability = SCORES.softmax(1)[torch.arange(50), LABELS]
    expected = -((1 - probability) ** 2) * probability.log()
    torch.testing.assert_close(Focal(gamma=2).per_image(SCORES, LABELS, 0.0), expected)


def test_the_gradient_of_focal_loss_is_finite_for_certain_answers() -> None:
    scores = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    Focal(gamma=0.5).per_image(scores, torch.tensor([0, 0]), 0.0).sum().backward()
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())


def test_the_loss_of_mixed_images_is_the_chosen_one() -> None:
    weight, others = torch.rand(50, generator=RANDOM), LABELS.roll(1)
    batch = Batch(SCORES, LABELS, "train", others, weight)
    one, other = (Focal(gamma=2).per_image(SCORES, labels, 0.0) for labels in (LABELS, others))
    found = ClassificationTask(Focal(gamma=2)).train_loss(SCORES, batch)
    torch.testing.assert_close(found, (weight * one + (1 - weight) * other).mean())


@pytest.mark.parametrize("num_classes", [3, 10])
def test_top_5_error_counts_labels_that_are_not_among_the_five_highest_scores(num_classes: int) -> None:
    scores, labels = SCORES[:, :num_classes], LABELS % num_classes
    metric = Top5Error().build(num_classes)
    for part in (slice(0, 20), slice(20, 50)):
        metric.update(scores[part], labels[part])
    highest = scores.topk(min(5, num_classes)).indices
    wrong = 100 * (highest != labels[:, None]).all(dim=1).float().mean().item()
    assert float(metric.compute()) == pytest.approx(wrong, abs=1e-4)


@pytest.mark.parametrize("task", [Classification(), Regression()], ids=lambda task: task.registered)
def test_a_task_describes_every_metric_that_it_computes(task: TaskSpec) -> None:
    built = task.build(None, 0.0)
    computed = {"loss", *built.values([1.0] * built.num_sums, 2)}
    extra: dict[str, MetricSpec] = {"err_top5": Top5Error()}
    described = task.describe(10, extra)
    assert described["metrics"].keys() == {*computed, "err_top5"}
    assert described["primary"] in computed
    assert described["metrics"]["err_top5"]["unit"] == "%"
