"""A run that restores images, and runs with other losses and metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.metrics import r2_score

from depthlab.records.curve_file import read_curves
from depthlab.records.record import read_record
from depthlab.runs.build import build_data
from depthlab.runs.evaluate import evaluate_run, load_run
from depthlab.runs.run import run

from ..conftest import Compose
from ..whole_runs import SMALL, results, same_weights, stop_after, weights

RESTORING = (
    "data=noisy_digits",
    "task=regression",
    "model=residual_restorer20",
    "model.depth=6",
    "model.width=4",
    "optimizer=adamw",
    "optimizer.lr=0.01",
)


def test_restoring_images_leaves_a_record_of_its_own_metrics(compose_config: Compose) -> None:
    config = compose_config(*RESTORING, "trainer.precision=32-true")
    outcome = run(config, "")
    record = read_record(outcome.directory)
    assert record["status"] == "finished"
    names = {f"{split}/{what}" for split in ("train", "val", "test") for what in ("loss", "mse", "r2")}
    assert set(record["metrics"]) == names | {f"train/{what}_running" for what in ("loss", "mse", "r2")}
    assert record["task"]["primary"] == "mse"
    assert record["task"]["metrics"]["r2"]["better"] == "higher"
    assert record["model"]["name"] == "residual_restorer6"
    assert f"test mean squared error {record['metrics']['test/mse']:.4g}" in outcome.line
    assert {path.stem for path in (outcome.directory / "diagnostics").iterdir()} == {"gradients", "responses"}


def test_the_recorded_metrics_are_those_of_a_plain_loop_over_the_images(compose_config: Compose) -> None:
    config = compose_config(*RESTORING, "trainer.precision=32-true")
    directory = run(config, "").directory
    network, record = load_run(directory)
    data = build_data(config)
    for split in ("train", "val", "test"):
        images, targets = data.on_device(split, torch.device("cpu")).eval_batch(0, data.num_images(split))
        with torch.no_grad():
            restored = network(images)
        mse = (restored - targets).square().mean().item()
        r2 = r2_score(targets.flatten().numpy(), restored.flatten().numpy())
        assert record["metrics"][f"{split}/mse"] == pytest.approx(mse, rel=1e-4)
        assert record["metrics"][f"{split}/r2"] == pytest.approx(r2, abs=1e-4)
    assert evaluate_run(directory) == {name: record["metrics"][name] for name in evaluate_run(directory)}


@pytest.mark.slow
def test_restoring_images_goes_on_bit_for_bit(compose_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*RESTORING, "logger=tensorboard")
    whole = run(compose_config(*overrides, "name=whole"), "").directory
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert run(compose_config(*overrides, "name=cut"), "").status == "interrupted"
    cut = run(compose_config(*overrides, "name=cut"), "").directory
    assert same_weights(whole, cut)
    assert results(whole) == results(cut)


def test_plain_and_residual_restorers_start_from_the_same_weights(compose_config: Compose) -> None:
    started: list[Path] = []
    for residual in ("true", "false"):
        keys = (f"model.residual={residual}", "trainer.max_steps=1", "optimizer.lr=1.0e-20", "optimizer.weight_decay=0")
        started.append(run(compose_config(*RESTORING, *keys), "").directory)
    first, second = map(weights, started)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items() if name.endswith("weight"))


def test_training_restores_images(compose_config: Compose) -> None:
    record = read_record(run(compose_config(*RESTORING, "trainer.max_steps=60", "model.width=8"), "").directory)
    assert record["metrics"]["test/r2"] > 0.5


def test_a_network_that_reads_numbers_off_images_is_refused_for_targets_that_are_images(
    compose_config: Compose,
) -> None:
    with pytest.raises(Exception, match="needs images"):
        compose_config("data=noisy_digits", "task=regression", "model=resnet20")


def test_huber_loss_is_minimised_and_measured_beside_the_metrics(compose_config: Compose) -> None:
    metrics = read_record(run(compose_config(*RESTORING, "loss=huber", "loss.delta=0.1"), "").directory)["metrics"]
    squared = read_record(run(compose_config(*RESTORING), "").directory)["metrics"]
    assert metrics["test/loss"] < metrics["test/mse"]
    assert squared["test/loss"] == pytest.approx(squared["test/mse"], rel=1e-5)


@pytest.mark.slow
def test_focal_loss_of_gamma_0_trains_as_cross_entropy_does_and_is_another_run(compose_config: Compose) -> None:
    plain = run(compose_config(*SMALL, "trainer.precision=32-true"), "").directory
    focal = run(compose_config(*SMALL, "trainer.precision=32-true", "loss=focal", "loss.gamma=0"), "").directory
    assert focal.name != plain.name
    for (step, loss), (_, expected) in zip(
        read_curves(focal)["train/loss"], read_curves(plain)["train/loss"], strict=True
    ):
        assert loss == pytest.approx(expected, rel=1e-3), step
    default = run(compose_config(*SMALL, "trainer.precision=32-true", "loss=focal"), "").directory
    assert read_record(default)["metrics"]["test/loss"] < read_record(plain)["metrics"]["test/loss"]


def test_top_5_error_is_measured_in_every_evaluation(compose_config: Compose) -> None:
    config = compose_config(*SMALL, "trainer.precision=32-true", "metrics=err_top5")
    directory = run(config, "").directory
    network, record = load_run(directory)
    data = build_data(config)
    images, labels = data.on_device("test", torch.device("cpu")).eval_batch(0, 360)
    with torch.no_grad():
        wrong = (network(images).topk(5).indices != labels[:, None]).all(dim=1).float().mean().item()
    assert record["metrics"]["test/err_top5"] == pytest.approx(100 * wrong, abs=1e-3)
    assert [step for step, _ in read_curves(directory)["val/err_top5"]] == [6, 12]
    assert record["task"]["metrics"]["err_top5"]["title"] == "top-5 error"
    assert record["metrics"]["test/err_top5"] < record["metrics"]["test/err"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("loss=huber",), "loss=huber: it is for numbers or images, not classes"),
        ((*RESTORING, "loss=focal"), "loss=focal: it is for classes, not images"),
        ((*RESTORING, "metrics=err_top5"), "metrics=err_top5: it measures classes, not images"),
        ((*RESTORING, "augment.mixup=0.2"), r"augment\.mixup: it changes labels of classes"),
        ((*RESTORING, "augment.label_smoothing=0.1"), r"augment\.label_smoothing: it changes labels of classes"),
        ((*RESTORING, "data.flip=true"), "a target image would have to be cropped and mirrored"),
        ((*RESTORING, "data.images_per_class=3"), r"data\.images_per_class: it needs classes"),
        (("loss=focal", "loss.gamma=-1"), r"loss\.gamma=-1\.0: must not be negative"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_before_anything_starts(
    compose_config: Compose, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        compose_config(*SMALL, *overrides)
