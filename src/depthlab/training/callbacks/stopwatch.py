"""The clock that times the training steps."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from depthlab.training.module import SupervisedModule


class Stopwatch(Callback):
    """Seconds spent training, without validation, start-up and tests.

    `warm_up_steps` and `warm_up_seconds` are those of the first batch, or block of steps.
    """

    def __init__(self) -> None:
        self.warm_up_steps = 0
        self.warm_up_seconds = 0.0
        self._first_step = 0
        self._sum = 0.0
        self._running_since: float | None = None

    @property
    def seconds(self) -> float:
        """So far."""
        running = 0.0 if self._running_since is None else time.monotonic() - self._running_since
        return self._sum + running

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        assert isinstance(pl_module, SupervisedModule)
        self._first_step = pl_module.step
        self._running_since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note what came before the first update was done."""
        assert isinstance(pl_module, SupervisedModule)
        if not self.warm_up_steps and pl_module.step > self._first_step:
            self.warm_up_steps, self.warm_up_seconds = pl_module.step - self._first_step, self.seconds

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause, once the device has done the steps that it was given: their time is not the validation's."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self._sum, self._running_since = self.seconds, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on."""
        self._running_since = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self._sum, self._running_since = self.seconds, None
