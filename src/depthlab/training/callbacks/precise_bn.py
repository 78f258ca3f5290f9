"""Callbacks around the steps: the clock that times them, and the batch-norm statistics averaged after them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from depthlab.data.datamodule import ImageDataModule
from depthlab.training.module import Classifier


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
        assert isinstance(pl_module, Classifier)
        self._first_step = pl_module.step
        self._running_since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note what came before the first update was done."""
        assert isinstance(pl_module, Classifier)
        if not self.warm_up_steps and pl_module.step > self._first_step:
            self.warm_up_steps, self.warm_up_seconds = pl_module.step - self._first_step, self.seconds

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause."""
        self._sum, self._running_since = self.seconds, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on."""
        self._running_since = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self._sum, self._running_since = self.seconds, None


def _share_statistics(network: nn.Module) -> None:
    """The mean over processes, which have seen equal shares of each batch; nothing where there is one."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    distributed.all_reduce(statistic)
                    statistic /= distributed.get_world_size()


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
            _share_statistics(pl_module.network)

    def _images(self, module: Classifier) -> Iterator[Tensor]:
        num_batches = self.data.stream(module.device).batches_per_epoch()
        for number in range(self.first_number, self.first_number + num_batches):
            yield self.data.train_batch(number, module.device).images
