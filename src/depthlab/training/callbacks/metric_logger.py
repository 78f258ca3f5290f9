"""The callback that reads the meters at boundaries and tells the loggers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from depthlab.data.datamodule import SPLITS
from depthlab.training.meter import Totals
from depthlab.training.module import Classifier


class Diverged(Exception):
    """The loss is no longer a finite number."""

    def __init__(self, step: int, last_finite: dict[str, float]) -> None:
        super().__init__(f"the loss was not finite at step {step}")
        self.step = step
        self.last_finite = last_finite


class MetricLogger(Callback):
    """Writes the running training loss and error every `every_steps` steps, and what validation found.

    Args:
        every_steps: steps between two readings; nothing waits for the device in between.
        max_steps: the step at which the run ends.
        images_per_epoch: training images.
        images_per_step: images in one update.
    """

    def __init__(self, every_steps: int, max_steps: int, images_per_epoch: int, images_per_step: int) -> None:
        self.every_steps = every_steps
        self.max_steps = max_steps
        self.last_epoch_start = max(0, max_steps - math.ceil(images_per_epoch / images_per_step))
        self.epochs_per_step = images_per_step / images_per_epoch
        self.last_epoch = Totals()
        self.latest: dict[str, float] = {}
        self._seen_step = 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"last_epoch": self.last_epoch.as_list(), "latest": dict(self.latest)}

    def restore(self, state: dict[str, Any], step: int) -> None:
        """From a checkpoint of `step`."""
        self.last_epoch = Totals(*state["last_epoch"])
        self.latest = dict(state["latest"])
        self._seen_step = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the training meter where a reading is due."""
        assert isinstance(pl_module, Classifier)
        step = pl_module.step
        if step == self._seen_step:
            return
        self._seen_step = step
        if step % self.every_steps == 0 or step == self.max_steps:
            self._read(trainer, pl_module, step)
        if step == self.last_epoch_start:
            # What the meter has seen of its present window is not of the last epoch.
            self.last_epoch = Totals() - Totals.of(pl_module.train_meter)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was measured along the way."""
        assert isinstance(pl_module, Classifier)
        values = eval_metrics(pl_module)
        self.latest.update(values)
        _log(trainer, pl_module.step, values)

    def _read(self, trainer: Trainer, module: Classifier, step: int) -> None:
        totals = Totals.of(module.train_meter)
        module.train_meter.reset()
        if not math.isfinite(totals.loss):
            self._give_up(totals, step)
        if step > self.last_epoch_start:
            self.last_epoch += totals
        values = {"train/loss": totals.loss, "train/err": totals.err}
        self.latest.update(values)
        clock = {"epoch": step * self.epochs_per_step, "lr": module.schedule(step - 1)}
        _log(trainer, step, {**clock, **values})

    def _give_up(self, totals: Totals, step: int) -> None:
        """Say at which of the steps since the last reading the loss was no number, and what it was before."""
        window_start = (step - 1) // self.every_steps * self.every_steps
        num_finite_steps = math.floor(totals.num_finite_images / totals.num_images * (step - window_start))
        last = dict(self.latest)
        if totals.finite_loss is not None:
            last["train/loss"] = totals.finite_loss
        raise Diverged(window_start + num_finite_steps + 1, finite(last))


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Those of `values` that are finite numbers."""
    return {key: value for key, value in values.items() if value is not None and math.isfinite(value)}


def eval_metrics(module: Classifier) -> dict[str, float]:
    """Loss and error of every split that the evaluation meters have seen, by metric name."""
    values = {}
    for split in SPLITS:
        totals = Totals.of(module.eval_meter(split))
        if totals.num_images:
            values[f"{split}/loss"] = totals.loss
            values[f"{split}/err"] = totals.err
    return values


def _log(trainer: Trainer, step: int, values: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(values, step=step)
