"""Batch norm's statistics averaged over one epoch after training (precise batch norm)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from depthlab.data.datamodule import ImageDataModule
from depthlab.training.module import SupervisedModule
from depthlab.training.plan import Plan


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

    def __init__(self, data: ImageDataModule, plan: Plan) -> None:
        self.data = data
        self.plan = plan

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One pass in training mode without updates."""
        assert isinstance(pl_module, SupervisedModule)
        if trainer.should_stop or pl_module.step == self.plan.max_steps:
            with trainer.precision_plugin.forward_context():
                update_bn(self._images(pl_module), pl_module.network)
            _share_statistics(pl_module.network)

    def _images(self, module: SupervisedModule) -> Iterator[Tensor]:
        num_batches = self.data.stream(module.device).batches_per_epoch()
        first = module.step * self.plan.batches_per_step
        for number in range(first, first + num_batches):
            yield self.data.train_batch(number, module.device).images
