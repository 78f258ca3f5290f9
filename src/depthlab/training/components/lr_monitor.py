"""Lightning's LearningRateMonitor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.training.spec import CallbackSpec

if TYPE_CHECKING:
    from lightning.pytorch import Callback


@register("callbacks", "lr_monitor")
@dataclass(frozen=True)
class LearningRateMonitor(CallbackSpec):
    """Logs the learning rate, and the momentum, of each parameter group."""

    identity = False

    log_momentum: bool = key(False, identity=False, help="log the momentum too")

    def build(self) -> Callback:
        from lightning.pytorch.callbacks import LearningRateMonitor as Monitor

        return Monitor("step", log_momentum=self.log_momentum)
