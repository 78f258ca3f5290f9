"""A regression task of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.tasks.spec import LossSpec, MetricInfo, TaskSpec

if TYPE_CHECKING:
    from depthlab.tasks.task import Task


@register("task", "absolute_error")
@dataclass(frozen=True)
class AbsoluteError(TaskSpec):
    """Numbers by least absolute deviations, measured by their mean and by the part within a tolerance."""

    targets = ("numbers",)
    primary = "mae"

    tolerance: float = key(0.1, positive=True, help="an answer this close counts as right")

    def metrics(self, num_outputs: int) -> dict[str, MetricInfo]:
        return {
            "mae": MetricInfo("mean absolute error"),
            "within": MetricInfo("answers within the tolerance", "%", better="higher", max=100.0),
        }

    def build(self, loss: LossSpec | None, label_smoothing: float) -> Task:
        from mylab.absolute_error_task import AbsoluteErrorTask

        return AbsoluteErrorTask(self.tolerance, loss)
