"""The callback of `mylab.update_counter`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class CountUpdates(Callback):
    """Counts batches, and logs the number at validations as a callback of anybody would."""

    def __init__(self, stop_after: int) -> None:
        self.stop_after = stop_after
        self.count = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.count += 1
        if self.count == self.stop_after:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"batches_seen": float(self.count)}, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]
