"""Predicting numbers or images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.metric_info import MetricInfo
from depthlab.config.registry import register
from depthlab.tasks.spec import IMAGES, NUMBERS, LossSpec, TaskSpec

if TYPE_CHECKING:
    from depthlab.tasks.task import Task


@register("task", "regression")
@dataclass(frozen=True)
class Regression(TaskSpec):
    """Mean squared error, measured by it and by R², from images to numbers or from images to images."""

    targets = (NUMBERS, IMAGES)
    primary = "mse"

    def metrics(self, num_outputs: int) -> dict[str, MetricInfo]:
        return {"mse": MetricInfo("mean squared error"), "r2": MetricInfo("R²", better="higher", max=1.0, chance=0.0)}

    def build(self, loss: LossSpec | None, label_smoothing: float) -> Task:
        from depthlab.tasks.task import RegressionTask

        return RegressionTask(loss)
