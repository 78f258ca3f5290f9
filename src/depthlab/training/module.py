"""The LightningModule: a network, its loss, its error, its optimiser and its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional as F

from depthlab.data.datamodule import SPLITS, Batch
from depthlab.optim.schedules import Schedule
from depthlab.training.meter import Counts, LossAndError, count

RunChunk = Callable[["Classifier", range], None]


class Classifier(LightningModule):
    """Trains a network to tell classes apart.

    `step` counts optimiser updates. Schedule, loggers, checkpoints and the end of the run read this counter and
    no other.

    Args:
        network: maps images (n, C, H, W) to class scores (n, num_classes).
        build_optimizer: makes the optimiser of a network.
        schedule: the learning rate of each step.
        label_smoothing: the part of a training label that is spread over all classes (Szegedy et al. 2016).
    """

    def __init__(
        self,
        network: nn.Module,
        build_optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Schedule,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.build_optimizer = build_optimizer
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.step = 0
        self.train_forward: Callable[[Tensor], Tensor] = network.forward
        self.run_block: RunChunk | None = None
        self.train_meter = LossAndError()
        self.eval_meters = nn.ModuleList(LossAndError() for _ in SPLITS)

    def eval_meter(self, split: str) -> LossAndError:
        """What was counted of a split since evaluation began."""
        meter = self.eval_meters[SPLITS.index(split)]
        assert isinstance(meter, LossAndError)
        return meter

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (n, num_classes) in float32 of images (n, C, H, W)."""
        scores: Tensor = self.network(images)
        return scores.float()

    def loss_and_counts(self, batch: Batch) -> tuple[Tensor, Counts]:
        """The mean cross-entropy of a training batch, and what it adds to the meter."""
        scores = self.train_forward(batch.images).float()
        loss = self._loss(scores, batch)
        loss_sum = loss * len(batch.labels)
        return loss, count(scores, batch.labels, loss_sum, batch.other_labels, batch.weight)

    def training_step(self, batch: Batch | range, batch_idx: int) -> Tensor | None:
        """The loss of a batch, of which Lightning makes the update; a block of steps makes its own."""
        if isinstance(batch, range):
            assert self.run_block is not None
            self.run_block(self, batch)
            return None
        loss, counts = self.loss_and_counts(batch)
        self.train_meter.update(*counts)
        return loss

    def train_in_blocks(self, run_block: RunChunk) -> None:
        """Leave the updates to `run_block`, which takes the numbers of a block's steps and moves `step` on."""
        self.run_block = run_block
        self.automatic_optimization = False

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what training computes; evaluation and whoever looks into the network meet it as it is."""
        self.train_forward = torch.compile(self.network.forward, *args, **kwargs)

    def _loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Of a mixed image, the loss for each of its two labels counts by that label's share."""
        if batch.other_labels is None or batch.weight is None:
            return F.cross_entropy(scores, batch.labels, label_smoothing=self.label_smoothing)
        one, other = (
            F.cross_entropy(scores, labels, reduction="none", label_smoothing=self.label_smoothing)
            for labels in (batch.labels, batch.other_labels)
        )
        return torch.lerp(other, one, batch.weight).mean()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count a batch towards its split."""
        scores = self(batch.images)
        loss_sum = F.cross_entropy(scores, batch.labels, reduction="sum")
        self.eval_meter(batch.split).update(*count(scores, batch.labels, loss_sum))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same as in validation."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_start(self) -> None:
        """Forget what was counted before."""
        for split in SPLITS:
            self.eval_meter(split).reset()

    def on_test_epoch_start(self) -> None:
        """Forget what was counted before."""
        self.on_validation_epoch_start()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser; its rate is set before each update."""
        return self.build_optimizer(self.network)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One update at the schedule's rate. Lightning computes the gradient inside the closure."""
        rate = self.schedule(self.step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.step += 1
