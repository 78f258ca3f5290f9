"""Top-5 error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.metric_info import MetricInfo
from depthlab.config.registry import register
from depthlab.tasks.spec import CLASSES, MetricSpec

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("metrics", "err_top5")
@dataclass(frozen=True)
class Top5Error(MetricSpec):
    """The part of the images whose class is not among the five highest scores, in percent."""

    targets = (CLASSES,)
    info = MetricInfo("top-5 error", "%", max=100.0)

    def build(self, num_outputs: int) -> Metric:
        from torchmetrics.classification import MulticlassAccuracy

        accuracy = MulticlassAccuracy(num_outputs, top_k=min(5, num_outputs), average="micro", validate_args=False)
        return (1 - accuracy) * 100
