"""A stateful Lightning callback that logs a value of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.training.spec import CallbackSpec

if TYPE_CHECKING:
    from lightning.pytorch import Callback


@register("callbacks", "update_counter")
@dataclass(frozen=True)
class UpdateCounter(CallbackSpec):
    """Counts the batches that were trained on, and ends the run after some of them."""

    stop_after: int = key(0, minimum=0, help="batches after which the run ends; 0 for never")

    def build(self) -> Callback:
        from mylab.update_counter_callback import CountUpdates

        return CountUpdates(self.stop_after)
