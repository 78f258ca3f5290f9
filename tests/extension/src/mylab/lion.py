"""An optimiser: the sign of the momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.optim.spec import OptimizerSpec

if TYPE_CHECKING:
    from torch.optim import Optimizer


@register("optimizer", "lion")
@dataclass(frozen=True)
class Lion(OptimizerSpec):
    """Lion (Chen et al. 2023): the sign of the averaged gradient."""

    lr: float = key(0.001, positive=True, help="peak learning rate")
    beta: float = key(0.9, minimum=0, below=1, help="decay of the averaged gradient")

    def build(self, parameters: list[dict[str, Any]], fused: bool | None) -> Optimizer:
        from mylab.lion_optimizer import LionOptimizer

        return LionOptimizer(parameters, self.lr, self.beta)
