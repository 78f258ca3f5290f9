"""Telling classes apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.metric_info import MetricInfo
from depthlab.config.registry import register
from depthlab.tasks.spec import CLASSES, LossSpec, TaskSpec

if TYPE_CHECKING:
    from depthlab.tasks.task import Task


@register("task", "classification")
@dataclass(frozen=True)
class Classification(TaskSpec):
    """Cross-entropy, measured by the top-1 error in percent. Labels are smoothed by augment.label_smoothing."""

    targets = (CLASSES,)
    mixes = True
    primary = "err"

    def metrics(self, num_outputs: int) -> dict[str, MetricInfo]:
        return {"err": MetricInfo("error", "%", max=100.0, chance=100 * (1 - 1 / num_outputs))}

    def build(self, loss: LossSpec | None, label_smoothing: float) -> Task:
        from depthlab.tasks.task import ClassificationTask

        return ClassificationTask(loss, label_smoothing)
