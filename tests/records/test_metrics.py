"""How the metrics of a record are read, with and without a task."""

from __future__ import annotations

from typing import Any

from depthlab.records.metrics import common_metric, describe
from depthlab.records.record import Record

from .test_record import RECORD

REGRESSION: dict[str, Any] = {
    "name": "regression",
    "primary": "r2",
    "metrics": {"r2": {"title": "R²", "unit": "", "better": "higher", "max": 1.0, "chance": 0.0}, "loss": {}},
}


def record(task: dict[str, Any] | None) -> Record:
    return Record.from_dict({**RECORD, **({"task": task} if task else {})})


def test_a_record_without_a_task_is_of_classification() -> None:
    task = describe(record(None))
    assert (task.name, task.primary, set(task.metrics)) == ("classification", "err", {"err", "loss"})
    assert (task.main.key("test"), task.main.show(8.3149), task.main.show(None)) == ("test/err", "8.31 %", "-")
    assert (task.main.max, task.main.better, task.main.header("test")) == (100.0, "lower", "test error %")


def test_a_task_says_how_its_metrics_are_read() -> None:
    task = describe(record(REGRESSION))
    assert (task.main.key("val"), task.main.show(0.912345), task.main.header("val")) == ("val/r2", "0.9123", "val R²")
    assert (task.main.better, task.main.max, task.main.chance) == ("higher", 1.0, 0.0)
    assert (task.metrics["loss"].title, task.metrics["loss"].better) == ("loss", "lower")


def test_records_share_a_metric_where_it_is_shown_alike() -> None:
    with_chance = {**describe_as_file(), "name": "classification"}
    shared = common_metric([record(None), record(with_chance)])
    assert shared is not None and shared.title == "error"
    assert common_metric([record(None), record(REGRESSION)]) is None
    assert common_metric([]) is None


def describe_as_file() -> dict[str, Any]:
    return {"primary": "err", "metrics": {"err": {"title": "error", "unit": "%", "chance": 90.0}}}
