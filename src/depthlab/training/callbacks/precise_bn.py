"""Batch norm's statistics averaged over one epoch after training (precise batch norm)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depthlab.data.datamodule import ImageDataModule
from depthlab.training.module import SupervisedModule
from depthlab.training.plan import Plan


def average_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace batch norm's statistics by plain averages over batches of images, of which each counts the same.

    The same values as torch.optim.swa_utils.update_bn, which has every layer read its number of batches from the
    device at every batch: here the weight of a batch, 1 / n, is counted on the host.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta, was_training = [norm.momentum for norm in norms], network.training
    for norm in norms:
        norm.reset_running_stats()
    network.train()
    try:
        with torch.no_grad():
            for number, images in enumerate(batches, start=1):
                for norm in norms:
                    norm.momentum = 1 / number
                network(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.train(was_training)


def _share_statistics(network: nn.Module) -> None:
    """The mean over processes, which have seen equal shares of each batch; nothing where there is one."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    for module in network.modules():
        if isinstance(module, _BatchNorm):
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
                average_statistics(pl_module.network, self._images(pl_module))
            _share_statistics(pl_module.network)

    def _images(self, module: SupervisedModule) -> Iterator[Tensor]:
        num_batches = self.data.stream(module.device).batches_per_epoch()
        first = module.step * self.plan.batches_per_step
        for number in range(first, first + num_batches):
            yield self.data.train_batch(number, module.device).images
