"""Lightning's LearningRateMonitor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        from lightning.pytorch import LightningModule, Trainer
        from lightning.pytorch.callbacks import LearningRateMonitor as Monitor

        class OncePerStep(Monitor):
            """Logs before the first of the batches that make a step; Lightning's logs before each."""

            def on_train_batch_start(
                self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *args: Any
            ) -> None:
                if batch_idx % trainer.accumulate_grad_batches == 0:
                    super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

        return OncePerStep("step", log_momentum=self.log_momentum)
