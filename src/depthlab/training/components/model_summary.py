"""Lightning's summary of the network's layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.training.spec import CallbackSpec

if TYPE_CHECKING:
    from lightning.pytorch import Callback


@register("callbacks", "model_summary")
@dataclass(frozen=True)
class ModelSummary(CallbackSpec):
    """Prints a table of the network's layers and parameters when training starts."""

    identity = False

    max_depth: int = key(2, identity=False, minimum=-1, help="levels of modules; -1: all")

    def build(self) -> Callback:
        from lightning.pytorch.callbacks import RichModelSummary

        return RichModelSummary(self.max_depth)
