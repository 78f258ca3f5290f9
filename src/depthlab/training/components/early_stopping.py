"""Lightning's EarlyStopping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.training.spec import CallbackSpec

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from depthlab.config.schema import TrainConfig


@register("callbacks", "early_stopping")
@dataclass(frozen=True)
class EarlyStopping(CallbackSpec):
    """Ends a run at a validation whose metric has not improved for a while."""

    monitor: str = key("val/err", help="the metric, such as val/err or val/loss")
    patience: int = key(5, minimum=0, help="validations without improvement before the run ends")
    min_delta: float = key(0.0, minimum=0, help="what counts as an improvement")
    mode: str = key("min", choices=("min", "max"), help="min: smaller is better")

    def build(self) -> Callback:
        from lightning.pytorch.callbacks import EarlyStopping as Stopping

        return Stopping(self.monitor, self.min_delta, self.patience, mode=self.mode, check_on_train_epoch_end=False)

    def conflict(self, config: TrainConfig) -> str | None:
        if self.monitor.startswith("test/"):
            return f"callbacks.early_stopping.monitor={self.monitor}: no choice reads the test set. Use val/err."
        return None
