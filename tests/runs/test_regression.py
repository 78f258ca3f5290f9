"""Other tasks, losses and metrics: runs that restore images, and reports that say nothing of error or chance."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import r2_score

from depthlab.errors import InputError
from depthlab.records.curve_file import read_curves
from depthlab.records.record import read_record
from depthlab.report.core.collection import collect
from depthlab.report.core.comparisons import compare, sentence
from depthlab.report.core.groups import find_settings, group_runs
from depthlab.report.core.task_description import read_task
from depthlab.report.report import Report, make_report
from depthlab.runs.build import build_data
from depthlab.runs.evaluate import evaluate_run, load_run
from depthlab.runs.run import run

from ..conftest import Compose
from ..report.synthetic import write_run
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


MSE = {"title": "mean squared error", "unit": "px²", "better": "lower", "max": None, "chance": None}
R2 = {"title": "R²", "unit": "", "better": "higher", "max": 1.0, "chance": 0.0}
REGRESSION = {"name": "regression", "primary": "mse", "metrics": {"mse": MSE, "r2": R2}}
NETWORKS = {"plain20": [0.021, 0.022, 0.023], "resnet20": [0.011, 0.012, 0.013]}


def write_regression(root: Path, task: dict[str, Any], values: dict[str, list[float]]) -> None:
    """Runs whose primary metric has the given final test values, with curves."""
    name = task["primary"]
    for network, finals in values.items():
        for seed, value in enumerate(finals, start=1):
            metrics = {f"{split}/{name}": value for split in ("train", "val", "test")}
            record = {"task": task, "metrics": {"test/r2": 1 - 10 * value, **metrics}}
            directory = write_run(root, network, seed, 0, 0, record=record, points=0)
            lines = [f"{step},{step / 10},0.1,{value + 1 / step},{value + 2 / step}" for step in range(1, 21)]
            header = f"step,epoch,lr,train/{name},val/{name}"
            (directory / "metrics.csv").write_text("\n".join([header, *lines]) + "\n")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("regression")
    write_regression(root / "sweep", REGRESSION, NETWORKS)
    return make_report([root / "sweep"], root / "out")


@pytest.mark.slow
def test_a_regression_gets_the_generic_report(report: Report) -> None:
    page = report.markdown.read_text()
    for word in ("Findings", "published", "paper", "chance of", "error (%)", "steps to 50 %", "nan"):
        assert word not in page
    assert "test mean squared error (px²)" in page
    assert {path.stem for path in (report.markdown.parent / "figures").glob("*.png")} == {"curves", "final_values"}


def test_its_tables_hold_its_metric(report: Report) -> None:
    with (report.markdown.parent / "tables" / "networks.csv").open(newline="") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    assert rows["resnet20"]["test mean squared error (px²)"] == "0.0120 ± 0.0010"
    assert rows["resnet20"]["n"] == "3"


def test_its_intervals_are_not_clipped_and_have_no_floor(tmp_path: Path) -> None:
    write_regression(tmp_path, REGRESSION, NETWORKS)
    (setting,) = find_settings(group_runs(collect([tmp_path]).runs))
    (comparison,) = compare(setting, "test/mse")
    sample = setting.groups[0].sample("test/mse")
    assert (sample.floor, sample.low, sample.high) == (0.0, -math.inf, math.inf)
    assert sentence(comparison).startswith("plain20 tests 0.01 px² worse than resnet20 (95 % CI ")
    assert comparison.smallest is not None


def test_a_higher_value_is_better_where_the_task_says_so(tmp_path: Path) -> None:
    task = {"name": "regression", "primary": "r2", "metrics": {"r2": R2}}
    write_regression(tmp_path, task, {"plain20": [0.8, 0.81, 0.82], "resnet20": [0.9, 0.91, 0.92]})
    (setting,) = find_settings(group_runs(collect([tmp_path]).runs))
    (comparison,) = compare(setting, "test/r2")
    assert sentence(comparison).startswith("plain20 tests 0.1 worse than resnet20")
    summary = setting.groups[0].summary("test/r2")
    assert summary is not None
    assert (summary.high or 2) <= 1.0


def test_runs_of_two_tasks_stand_in_one_table_and_are_not_compared(tmp_path: Path) -> None:
    write_regression(tmp_path, REGRESSION, {"resnet20": [0.1, 0.2]})
    for seed in (1, 2):
        write_run(tmp_path, "plain20", seed, 1.0, 9.0, {"optimizer.lr": 0.05}, points=0)
    make_report([tmp_path], tmp_path / "out")
    with (tmp_path / "out" / "tables" / "networks.csv").open(newline="") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    assert (rows["plain20"]["test error (%)"], rows["resnet20"]["test error (%)"]) == ("9.00 ± 0.00", "")


def test_a_record_without_a_task_is_a_classification() -> None:
    task = read_task({"data": {"num_classes": 4}})
    assert (task.primary, task.metric("test/err").chance, task.metric("test/err").bounds) == ("err", 75.0, (0.0, 100.0))
    assert task.heading("train/err_running") == "running training error (%)"
    assert read_task({"data": {}}).metric("test/err").chance is None


@pytest.mark.parametrize(
    "task",
    [
        "regression",
        {"name": "x", "primary": "mse", "metrics": {"mse": {**MSE, "better": "smaller"}}},
        {"name": "x", "primary": "mse", "metrics": {"mse": {**MSE, "max": "large"}}},
        {"name": "x", "primary": "mae", "metrics": {"mse": MSE}},
    ],
)
def test_a_damaged_description_is_refused(task: Any) -> None:
    with pytest.raises(InputError, match="task"):
        read_task({"task": task, "data": {}})
