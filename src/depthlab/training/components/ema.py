"""Exponentially averaged weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.training.spec import CallbackSpec

if TYPE_CHECKING:
    from lightning.pytorch import Callback


@register("callbacks", "ema")
@dataclass(frozen=True)
class ExponentialMovingAverage(CallbackSpec):
    """Averages the weights over the steps; the averages are measured in addition to the last weights."""

    decay: float = key(0.999, minimum=0, below=1, help="part of the average that each step keeps")

    def build(self) -> Callback:
        from depthlab.training.callbacks.weight_averaging import WeightAverage

        return WeightAverage(self.decay)
