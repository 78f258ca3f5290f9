"""What is recorded of a network's inside is right, and recording it leaves no trace in the run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthlab.data.datamodule import ImageDataModule
from depthlab.models import cifar_net
from depthlab.records.arrays import load_arrays, write_arrays
from depthlab.records.checkpoints import list_checkpoints, load_checkpoint
from depthlab.records.record import read_record
from depthlab.runs import callbacks
from depthlab.runs.build import build_data
from depthlab.runs.evaluate import load_run
from depthlab.runs.run import run
from depthlab.training.callbacks import gradient_norms as gradients
from depthlab.training.callbacks.checkpointing import Checkpoints
from depthlab.training.callbacks.diagnostics import Predictions
from depthlab.training.callbacks.gradient_norms import (
    GradientNorms,
    gradient_norms,
    layers_3x3,
    probe_steps,
    probed_layers,
)

from ..conftest import Compose, slowly
from .small import classifier, plan, trainer

SMALL = ("model=resnet20", "model.depth=8", "checkpoint.every_steps=2")


@pytest.mark.parametrize(("residual", "shortcut"), [(False, "A"), (True, "A"), (True, "B"), (True, "C")])
def test_the_layers_are_the_3x3_convolutions_in_forward_order(residual: bool, shortcut: str) -> None:
    network = cifar_net(20, residual, shortcut)
    layers = layers_3x3(network)
    called: list[nn.Module] = []
    for layer in layers:
        layer.conv.register_forward_hook(lambda module, inputs, output: called.append(module))
        layer.norm.register_forward_hook(lambda module, inputs, output: called.append(module))
    network(torch.zeros(2, 3, 8, 8))
    assert called == [module for layer in layers for module in (layer.conv, layer.norm)]
    assert len(layers) == 19
    assert [layer.name for layer in layers[:3]] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert all(network.get_submodule(layer.name) is layer.conv for layer in layers)


def test_the_norms_are_those_of_the_gradients_that_training_computes() -> None:
    network, images, labels = some_network()
    expected = copy.deepcopy(network)
    F.cross_entropy(expected(images), labels).backward()
    norms = gradient_norms(network, probed_layers(network), images, partial(F.cross_entropy, target=labels))
    by_hand = [float(layer.conv.weight.grad.square().sum().sqrt()) for layer in layers_3x3(expected)]  # type: ignore[union-attr]
    assert norms.dtype == np.float32
    assert norms == pytest.approx(by_hand, rel=1e-5)


def test_measuring_gradients_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images, labels = some_network()
    F.cross_entropy(network(images), labels).backward()
    state = copy.deepcopy(network.state_dict())
    grads = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    random = torch.get_rng_state()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    gradient_norms(network, probed_layers(network), images, partial(F.cross_entropy, target=labels))
    assert torch.backends.cudnn.benchmark
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(map(torch.equal, grads, [parameter.grad for parameter in network.parameters()]))
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def some_network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return cifar_net(8, in_channels=1), torch.randn(6, 1, 8, 8), torch.randint(0, 10, (6,))


def test_probes_fall_on_validations_the_last_always() -> None:
    assert probe_steps(440, 44) == {44, 440}
    assert probe_steps(12, 5) == {12}
    assert probe_steps(1000, 300) == {300, 600, 1000}
    assert probe_steps(1000, 5000) == {1000}


def test_probes_are_spaced_as_a_geometric_series() -> None:
    steps = sorted(probe_steps(64_000, 100))
    assert (steps[0], steps[-1]) == (100, 64_000)
    late = np.array([step for step in steps if step >= 1000])
    ratios = late[1:] / late[:-1]
    assert (abs(ratios - 640 ** (1 / 31)) < 0.1).all()


@pytest.mark.parametrize("max_steps", [1, 199, 450, 3000, 64_000])
@pytest.mark.parametrize("val_every_steps", [1, 7, 1000])
def test_probes_are_few(max_steps: int, val_every_steps: int) -> None:
    steps = probe_steps(max_steps, val_every_steps)
    assert max_steps in steps
    assert len(steps) <= max(1, min(max_steps // 200, 32))
    assert all(step % val_every_steps == 0 for step in steps - {max_steps})


def test_a_run_is_the_same_bit_for_bit_without_diagnostics(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "STEPS_PER_PROBE", 1)
    overrides = (*SMALL, "logger=tensorboard", "logger.every_steps=3", "trainer.bn_statistics=averaged")
    recorded = run(compose_config(*overrides, "name=with"), "").directory
    monkeypatch.setattr(callbacks, "build_diagnostics", lambda *args: [])
    bare = run(compose_config(*overrides, "name=without"), "").directory
    assert not (bare / "diagnostics").exists()
    assert len(list((recorded / "diagnostics").iterdir())) == 4
    assert read_record(recorded)["metrics"] == read_record(bare)["metrics"]
    assert (recorded / "metrics.csv").read_text() == (bare / "metrics.csv").read_text()
    first, second = (load_checkpoint(list_checkpoints(directory)[0]) for directory in (recorded, bare))
    assert first.keys() == second.keys()
    assert torch.equal(first["random"], second["random"])
    assert all(torch.equal(first["network"][key], second["network"][key]) for key in first["network"])


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [7, *slowly(2, 6)])
def test_a_continued_run_has_each_probe_once(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    monkeypatch.setattr(gradients, "STEPS_PER_PROBE", 1)
    overrides = (*SMALL, "trainer.val_every_steps=3")
    whole = run(compose_config(*overrides, "name=whole"), "").directory
    with monkeypatch.context() as patch:
        decide = Checkpoints._save_if_due

        def save_if_due(self: Checkpoints, fit: Any, module: Any) -> None:
            self.stop.is_made = module.step >= stop_at
            decide(self, fit, module)

        patch.setattr(Checkpoints, "_save_if_due", save_if_due)
        assert run(compose_config(*overrides, "name=cut"), "").status == "interrupted"
    cut = run(compose_config(*overrides, "name=cut"), "").directory
    assert load_arrays(cut, "gradients")["step"].tolist() == [0, 3, 6, 9, 12]
    assert_same_arrays(whole, cut)


@pytest.mark.slow
def test_probes_after_the_checkpoint_are_made_again(compose_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "STEPS_PER_PROBE", 1)
    overrides = (*SMALL, "trainer.val_every_steps=3", "checkpoint.every_steps=8")
    whole = run(compose_config(*overrides, "name=whole"), "").directory
    cut = run(compose_config(*overrides, "name=cut"), "").directory
    list_checkpoints(cut)[0].unlink()  # step 12; step 8 stays
    spoil(cut, "gradients", lambda arrays: {**arrays, "norm": arrays["norm"] * [[1], [1], [1], [9], [9]]})
    start_again(cut)
    run(compose_config(*overrides, "name=cut"), "")
    assert_same_arrays(whole, cut)


def test_a_continuation_forgets_the_probes_after_its_step(tmp_path: Path) -> None:
    norms = np.ones((3, 1), dtype=np.float32)
    write_arrays(tmp_path, "gradients", layer=np.array(["0"]), step=np.array([0, 4, 8]), norm=norms)
    module = classifier()
    module.network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    module.step = 4
    callback = GradientNorms(None, tmp_path, plan(max_steps=8, val_every_steps=4))  # type: ignore[arg-type]
    callback.on_train_start(trainer(), module)
    assert list(callback.series) == [0, 4]


@pytest.mark.slow
def test_a_run_that_lost_its_only_checkpoint_begins_the_series_anew(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL), "").directory
    before = load_arrays(directory, "gradients")
    for path in list_checkpoints(directory):
        path.unlink()
    start_again(directory)
    run(compose_config(*SMALL), "")
    after = load_arrays(directory, "gradients")
    assert after["step"].tolist() == [0, 12]
    assert np.array_equal(before["norm"], after["norm"])


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["bytes", "shape"])
def test_a_damaged_series_costs_its_own_measurements_alone(
    compose_config: Compose, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    directory = run(compose_config(*SMALL), "").directory
    list_checkpoints(directory)[0].unlink()
    start_again(directory)
    path = directory / "diagnostics" / "gradients.npz"
    if damage == "bytes":
        path.write_bytes(b"PK\x03\x04")
    else:
        np.savez(path, step=np.array([0]), layer=np.array(["stem"]), norm=np.zeros((1, 99)))
    run(compose_config(*SMALL), "")
    assert f"{path} is " in capsys.readouterr().out
    assert read_record(directory)["status"] == "finished"
    assert load_arrays(directory, "gradients")["step"].tolist() == [12]


@pytest.mark.slow
@pytest.mark.parametrize("eval_batch_size", [300, 1000, 5000])
def test_responses_are_those_of_the_first_thousand_images(compose_config: Compose, eval_batch_size: int) -> None:
    config = compose_config(*SMALL, "trainer.precision=32-true", f"data.eval_batch_size={eval_batch_size}")
    directory = run(config, "").directory
    responses = load_arrays(directory, "responses")
    assert responses["std"].dtype == np.float32
    expected = responses_by_hand(load_run(directory)[0], build_data(config), 1000)
    assert responses["layer"].tolist() == list(expected)
    assert responses["std"] == pytest.approx(list(expected.values()), rel=1e-4)


def test_responses_are_of_all_images_where_there_are_fewer(compose_config: Compose) -> None:
    config = compose_config(*SMALL, "trainer.precision=32-true", "data.val_size=900")
    directory = run(config, "").directory
    expected = responses_by_hand(load_run(directory)[0], build_data(config), 537)
    assert load_arrays(directory, "responses")["std"] == pytest.approx(list(expected.values()), rel=1e-4)


def responses_by_hand(network: nn.Module, data: ImageDataModule, num_images: int) -> dict[str, float]:
    """Computed from the inputs of the nonlinearities and additions, block by block."""
    images, _ = data.on_device("train", torch.device("cpu")).eval_batch(0, num_images)
    assert len(images) == num_images
    found = {}
    with torch.no_grad():
        output = network.bn1(network.conv1(images))  # type: ignore[operator]
        found["conv1"] = float(output.std(correction=0))
        x = F.relu(output)
        for name in ("layer1", "layer2", "layer3"):
            block = network.get_submodule(name)[0]  # type: ignore[index]
            middle = block.bn1(block.conv1(x))
            end = block.bn2(block.conv2(F.relu(middle)))
            found[f"{name}.0.conv1"] = float(middle.std(correction=0))
            found[f"{name}.0.conv2"] = float(end.std(correction=0))
            x = F.relu(end + block.shortcut(x))
    return found


def test_predictions_are_those_of_a_plain_loop(compose_config: Compose) -> None:
    config = compose_config(*SMALL, "trainer.precision=32-true", "data.eval_batch_size=100")
    directory = run(config, "").directory
    data, found = build_data(config), load_arrays(directory, "predictions")
    images, labels = data.on_device("test", torch.device("cpu")).eval_batch(0, 360)
    with torch.no_grad():
        confidence, predicted = load_run(directory)[0](images).softmax(dim=1).max(dim=1)
    assert found["index"].tolist() == list(range(360))
    assert found["label"].tolist() == labels.tolist()
    assert found["predicted"].tolist() == predicted.tolist()
    assert found["confidence"] == pytest.approx(confidence.numpy(), abs=1e-5)
    wrong = 100 * float((found["label"] != found["predicted"]).mean())
    assert read_record(directory)["metrics"]["test/err"] == pytest.approx(wrong)


def test_mistakes_are_the_most_confident_wrong_answers(compose_config: Compose) -> None:
    config = compose_config(*SMALL)
    directory = run(config, "").directory
    found, all_ = load_arrays(directory, "mistakes"), load_arrays(directory, "predictions")
    assert found["image"].shape == (25, 8, 8, 1)
    assert found["image"].dtype == np.uint8
    assert (found["label"] != found["predicted"]).all()
    assert np.array_equal(found["image"], build_data(config).arrays["test"][0][found["index"]])
    for key in ("label", "predicted", "confidence"):
        assert np.array_equal(found[key], all_[key][found["index"]])
    wrong = all_["confidence"][all_["label"] != all_["predicted"]]
    assert found["confidence"].tolist() == sorted(wrong.tolist(), reverse=True)[:25]


def test_two_processes_write_what_one_would(compose_config: Compose, tmp_path: Path) -> None:
    """Two ranks that see their shares of each batch; the sum over both is what the first one writes."""
    data = build_data(compose_config("data.eval_batch_size=101"))
    scores = torch.randn(360, 10, generator=torch.Generator().manual_seed(0))
    one = passes_the_test(data, tmp_path / "one", scores, 0, 1, other=None)
    second = passes_the_test(data, tmp_path / "second", scores, 1, 2, other=None)
    passes_the_test(data, tmp_path / "two", scores, 0, 2, other=second)
    assert (one.predicted == scores.argmax(dim=1)).all()
    assert_same_arrays(tmp_path / "one", tmp_path / "two")
    assert not (tmp_path / "second" / "diagnostics").exists()


def passes_the_test(
    data: ImageDataModule, directory: Path, scores: Tensor, rank: int, world_size: int, other: Predictions | None
) -> Predictions:
    """The callback's part in the test of one process; `other` is the process that it adds up with."""
    directory.mkdir()
    sums = {torch.int64: other and other.predicted, torch.float32: other and other.confidence}
    strategy = SimpleNamespace(
        reduce=lambda values, reduce_op: values if other is None else values + sums[values.dtype]
    )
    fake = trainer(strategy=strategy, global_rank=rank, world_size=world_size, is_global_zero=rank == 0)
    data.trainer = fake
    module, callback = classifier(), Predictions(data, directory)
    callback.on_test_start(fake, module)
    for batch_idx, (split, start, stop) in enumerate(data.eval_batches("test")):
        batch = data.transfer_batch_to_device((split, start, stop), torch.device("cpu"), 0)
        size = -(-(stop - start) // world_size)
        callback._keep(module, None, scores[start:stop][rank * size : (rank + 1) * size])
        callback.on_test_batch_end(fake, module, None, batch, batch_idx)
    callback.on_test_end(fake, module)
    return callback


def assert_same_arrays(a: Path, b: Path) -> None:
    paths = sorted((a / "diagnostics").iterdir())
    assert [path.name for path in paths] == sorted(path.name for path in (b / "diagnostics").iterdir())
    for path in paths:
        first, second = load_arrays(a, path.stem), load_arrays(b, path.stem)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[key], second[key]) for key in first)


def spoil(directory: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    write_arrays(directory, name, **change(load_arrays(directory, name)))


def start_again(directory: Path) -> None:
    record = json.loads((directory / "record.json").read_text())
    (directory / "record.json").write_text(json.dumps({**record, "status": "running"}))
