"""The LightningModule: a network, its task, its optimiser and its learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from depthlab.data.batch import SPLITS, Batch
from depthlab.optim.schedules import Schedule
from depthlab.tasks.task import Task
from depthlab.training.meter import Counts, SumMeter, Totals

RunChunk = Callable[["SupervisedModule", range], None]


class SupervisedModule(LightningModule):
    """Trains a network on a task.

    `step` counts optimiser updates. Schedule, loggers, checkpoints and the end of the run read this counter and
    no other.

    Args:
        network: maps images (n, C, H, W) to outputs, (n, num_outputs) or images.
        build_optimizer: makes the optimiser of a network.
        schedule: the learning rate of each step.
        task: the loss, and the sums that its metrics are made of.
        metrics: more metrics, measured in evaluations only.
    """

    def __init__(
        self,
        network: nn.Module,
        build_optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Schedule,
        task: Task,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.build_optimizer = build_optimizer
        self.schedule = schedule
        self.task = task
        self.step = 0
        self.train_forward: Callable[[Tensor], Tensor] = network.forward
        self.run_chunk: RunChunk | None = None
        self.train_meter = SumMeter(task.num_sums)
        self.eval_meters = nn.ModuleList(SumMeter(task.num_sums) for _ in SPLITS)
        # A collection a split, each with metrics of its own; torchmetrics puts prefix and name together.
        self.eval_metrics = nn.ModuleList(
            MetricCollection({name: metric.clone() for name, metric in metrics.items()}, prefix=f"{split}/")
            for split in SPLITS
            if metrics
        )

    def eval_meter(self, split: str) -> SumMeter:
        """The meter of a split; it counts since the start of the evaluation."""
        meter = self.eval_meters[SPLITS.index(split)]
        assert isinstance(meter, SumMeter)
        return meter

    def values(self, totals: Totals) -> dict[str, float]:
        """Loss and metrics of the images that were counted, by name."""
        return {"loss": totals.loss, **self.task.values(totals.sums, totals.num_images)}

    def compute_metrics(self) -> dict[str, float]:
        """Loss and metrics of every split that was evaluated, as "test/err". Waits for the device."""
        found: dict[str, float] = {}
        for idx, split in enumerate(SPLITS):
            totals = Totals.of(self.eval_meter(split))
            if totals.num_images:
                found |= {f"{split}/{name}": value for name, value in self.values(totals).items()}
                if self.eval_metrics:
                    collection = self.eval_metrics[idx]
                    assert isinstance(collection, MetricCollection)
                    found |= {name: float(value) for name, value in collection.compute().items()}
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Outputs in float32 of images (n, C, H, W)."""
        outputs: Tensor = self.network(images)
        return outputs.float()

    def loss_and_counts(self, batch: Batch) -> tuple[Tensor, Counts]:
        """The mean loss of a training batch, and its contribution to the meter."""
        outputs = self.train_forward(batch.images).float()
        loss = self.task.train_loss(outputs, batch)
        num_images = len(batch.labels)
        return loss, ((loss * num_images).detach(), *self.task.sums(outputs, batch), num_images)

    def training_step(self, batch: Batch | range, batch_idx: int) -> Tensor | None:
        """The loss of a batch, with which Lightning makes the update; a chunk of steps makes its own updates."""
        if isinstance(batch, range):
            assert self.run_chunk is not None
            self.run_chunk(self, batch)
            return None
        loss, counts = self.loss_and_counts(batch)
        self.train_meter.update(*counts)
        return loss

    def train_in_chunks(self, run_chunk: RunChunk) -> None:
        """Leave the updates to `run_chunk`, which takes the numbers of a chunk's steps and moves `step` on."""
        self.run_chunk = run_chunk
        self.automatic_optimization = False

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the forward pass of training; evaluation and diagnostics use the eager network."""
        self.train_forward = torch.compile(self.network.forward, *args, **kwargs)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count a batch towards its split."""
        outputs = self(batch.images)
        loss_sum = self.task.loss_sum(outputs, batch.labels)
        self.eval_meter(batch.split).update(loss_sum.detach(), *self.task.sums(outputs, batch), len(batch.labels))
        if self.eval_metrics:
            collection = self.eval_metrics[SPLITS.index(batch.split)]
            assert isinstance(collection, MetricCollection)
            collection.update(outputs, batch.labels)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same as in validation."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_start(self) -> None:
        """Reset the meters."""
        for meter in (*self.eval_meters, *self.eval_metrics):
            assert isinstance(meter, Metric | MetricCollection)
            meter.reset()

    def on_test_epoch_start(self) -> None:
        """Reset the meters."""
        self.on_validation_epoch_start()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser; its learning rate is set before each update."""
        return self.build_optimizer(self.network)

    def on_train_start(self) -> None:
        """Set the learning rate of the first step, which stock callbacks read before that step."""
        optimizer = self.optimizers()
        if self.automatic_optimization and isinstance(optimizer, LightningOptimizer):
            self._set_rate(optimizer)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One update at the schedule's rate. Lightning computes the gradient inside the closure."""
        self._set_rate(optimizer)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.step += 1
        self._set_rate(optimizer)

    def _set_rate(self, optimizer: torch.optim.Optimizer | LightningOptimizer) -> None:
        rate = self.schedule(self.step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
