"""A metric of torchmetrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.tasks.spec import MetricInfo, MetricSpec

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("metrics", "kappa")
@dataclass(frozen=True)
class Kappa(MetricSpec):
    """Cohen's kappa."""

    info = MetricInfo("Cohen's kappa", better="higher", max=1.0, chance=0.0)

    weights: str = key("none", choices=("none", "linear", "quadratic"), help="how far apart two classes count")

    def build(self, num_outputs: int) -> Metric:
        from torchmetrics.classification import MulticlassCohenKappa

        return MulticlassCohenKappa(num_outputs, weights=self.weights)
