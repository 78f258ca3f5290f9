"""Reports of other tasks: titles, units and directions come from the record, and nothing is said of error or chance."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from depthlab.errors import InputError
from depthlab.report.core.collection import collect
from depthlab.report.core.comparisons import compare, sentence
from depthlab.report.core.groups import find_settings, group_runs
from depthlab.report.core.task_description import read_task
from depthlab.report.report import Report, make_report

from .synthetic import write_run

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
