"""Callbacks around the steps: the clock that times them, and the batch-norm statistics averaged after them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.swa_utils import update_bn

from depthlab.data.datamodule import ImageDataModule
from depthlab.training.classifier import Classifier


class Stopwatch(Callback):
    """Seconds spent training, without validation, start-up and tests."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._running_since: float | None = None

    @property
    def seconds(self) -> float:
        """So far."""
        running = 0.0 if self._running_since is None else time.monotonic() - self._running_since
        return self._sum + running

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self._running_since = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause."""
        self._sum, self._running_since = self.seconds, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on."""
        self._running_since = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self._sum, self._running_since = self.seconds, None


class AveragedBatchNorm(Callback):
    """Replaces batch norm's moving averages, at the last step, by plain averages over one epoch of batches.

    The paper does not say which its tests use. The epoch is the one that training would have gone on with.
    """

    def __init__(self, data: ImageDataModule, max_steps: int, first_number: int) -> None:
        self.data = data
        self.max_steps = max_steps
        self.first_number = first_number

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One pass in training mode without updates."""
        assert isinstance(pl_module, Classifier)
        if pl_module.step == self.max_steps:
            with trainer.precision_plugin.forward_context():
                update_bn(self._images(pl_module), pl_module.network)

    def _images(self, module: Classifier) -> Iterator[Tensor]:
        num_batches = self.data.stream(module.device).batches_per_epoch()
        for number in range(self.first_number, self.first_number + num_batches):
            yield self.data.train_batch(number, module.device).images
