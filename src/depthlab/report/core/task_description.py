"""What a task measures, read from the record: the title, unit and better direction of every metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from depthlab.errors import InputError

SPLITS = {"train": "training", "val": "validation", "test": "test"}
RUNNING = "_running"
EMA = "ema:"  # prefix of a key that reads metrics_ema instead of metrics
BETTER = ("lower", "higher")


@dataclass(frozen=True)
class Metric:
    """One metric of a task.

    `max` is the largest possible value and `chance` the value of a guess; None where there is no such number.
    """

    name: str
    title: str
    unit: str
    better: str
    max: float | None = None
    chance: float | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest possible value; infinite where the description does not say."""
        high = math.inf if self.max is None else self.max
        return (0.0 if self.max is not None and (self.better == "lower" or self.unit == "%") else -math.inf), high

    @property
    def counts_images(self) -> bool:
        """Whether the metric is a share of the images in percent, so that half an image is its resolution."""
        return self.unit == "%" and self.max == 100

    @property
    def points(self) -> str:
        """The word for differences of this metric."""
        return "points" if self.unit == "%" else self.unit

    def shortfall(self, value: float) -> float:
        """The value as an error: what is missing to the maximum where higher is better."""
        return value if self.better == "lower" else (self.max or 0.0) - value


@dataclass(frozen=True)
class Task:
    """A task's metrics by name; `primary` is the one that reports compare."""

    name: str
    primary: str
    metrics: Mapping[str, Metric]

    def metric(self, key: str) -> Metric:
        """The metric behind a key such as `test/err`, `train/err_running` or `ema:test/err`."""
        name = key.removeprefix(EMA).split("/")[-1].removesuffix(RUNNING)
        return self.metrics.get(name) or Metric(name, name, "", "lower")

    def title(self, key: str) -> str:
        """`test error` for `test/err`, `running training error` for `train/err_running`."""
        split = key.removeprefix(EMA).split("/")[0]
        running = "running " if key.endswith(RUNNING) else ""
        averaged = ", averaged weights" if key.startswith(EMA) else ""
        return f"{running}{SPLITS.get(split, split)} {self.metric(key).title}{averaged}"

    def heading(self, key: str) -> str:
        """The title with the unit, as columns and axes show it."""
        unit = self.metric(key).unit
        return f"{self.title(key)} ({unit})" if unit else self.title(key)


def split_of(key: str) -> str:
    """The split of a key: train, val or test."""
    return key.removeprefix(EMA).split("/")[0]


def read_task(record: Any) -> Task:
    """The task of a record. A record without a description is of a classification.

    Raises:
        InputError: the description is damaged.
    """
    described = record.get("task")
    if described is None:
        return classification(record["data"].get("num_classes"))
    try:
        metrics = {name: _metric(name, values) for name, values in described["metrics"].items()}
        task = Task(str(described["name"]), str(described["primary"]), metrics)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"the record's task is damaged ({type(error).__name__}: {error})") from None
    if task.primary not in metrics:
        raise InputError(f"the record's task names {task.primary!r} as its primary metric and does not describe it")
    return task


def classification(num_classes: Any) -> Task:
    """Top-1 error in percent and the loss; the chance error follows from the number of classes."""
    known = isinstance(num_classes, int) and not isinstance(num_classes, bool) and num_classes > 0
    chance = 100 * (1 - 1 / num_classes) if known else None
    error = Metric("err", "error", "%", "lower", 100.0, chance)
    return Task("classification", "err", {"err": error, "loss": Metric("loss", "loss", "", "lower")})


def _metric(name: str, values: Mapping[str, Any]) -> Metric:
    better = values["better"]
    if better not in BETTER:
        raise ValueError(f"better of {name} is {better!r}, none of {', '.join(BETTER)}")
    numbers = [None if values.get(key) is None else float(values[key]) for key in ("max", "chance")]
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise ValueError(f"max and chance of {name} must be finite")
    return Metric(name, str(values["title"]), str(values.get("unit") or ""), better, *numbers)
