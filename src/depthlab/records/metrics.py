"""What a run's metrics mean: their names, titles and units, as the record's `task` describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depthlab.config.metric_info import MetricInfo
from depthlab.records.record import Record

# Of records without a task: all that there was before tasks.
CLASSIFICATION: dict[str, Any] = {
    "name": "classification",
    "primary": "err",
    "metrics": {
        "err": {"title": "error", "unit": "%", "better": "lower", "max": 100.0, "chance": None},
        "loss": {"title": "loss", "unit": "", "better": "lower", "max": None, "chance": None},
    },
}


@dataclass(frozen=True)
class TaskInfo:
    """What a run learned: the task's name and its metrics, the primary one by name."""

    name: str
    primary: str
    metrics: Mapping[str, MetricInfo]

    @property
    def main(self) -> MetricInfo:
        """The metric that lists show."""
        return self.metrics[self.primary]


def describe(record: Record) -> TaskInfo:
    """The task of a record, checked when it was read. A record without one is of classification."""
    return describe_task(record.task)


def describe_task(task: Mapping[str, Any] | None) -> TaskInfo:
    """A task as records hold it. What it does not say of a metric has the neutral value."""
    found = task or CLASSIFICATION
    metrics = {name: _metric(name, values) for name, values in found["metrics"].items()}
    return TaskInfo(found["name"], found["primary"], metrics)


def common_metric(records: Sequence[Record]) -> MetricInfo | None:
    """The main metric of all these records, None where names, titles or units differ or there is no record."""
    metrics = [describe(record).main for record in records]
    kinds = {(metric.name, metric.title, metric.unit) for metric in metrics}
    return metrics[0] if len(kinds) == 1 else None


def _metric(name: str, values: Mapping[str, Any]) -> MetricInfo:
    known = {key: values[key] for key in ("title", "unit", "better", "max", "chance") if values.get(key) is not None}
    return MetricInfo(**{"title": name, **known}, name=name)
