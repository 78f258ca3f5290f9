"""The callback that reads the meters at boundaries and logs what they hold."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from depthlab.training.endings import Diverged, finite
from depthlab.training.lightning_counters import set_global_step, set_logged_step
from depthlab.training.meter import LateTotals, Totals
from depthlab.training.module import SupervisedModule
from depthlab.training.plan import Plan


class MetricLogger(Callback):
    """Logs the running training loss and metrics at the plan's steps, and what validations found.

    The same values are there for stock callbacks, as if the module had logged them with `self.log`; those of the test
    set are not, since no choice reads it.

    Args:
        plan: of the run.
        num_sums: sums that the task counts.
    """

    def __init__(self, plan: Plan, num_sums: int) -> None:
        self.plan = plan
        self.num_sums = num_sums
        self.last_epoch = Totals.zero(num_sums)
        self.latest: dict[str, float] = {}
        self._seen_step = plan.first_step
        self._read_step = plan.first_step
        self.reads_late = False  # for captured steps: a window's sums are looked at when the next window ends
        self._waiting: tuple[Trainer, SupervisedModule, int, LateTotals] | None = None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        self._look_at_waiting(in_batch=False)
        return {"last_epoch": self.last_epoch.as_list(), "latest": dict(self.latest)}

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint of the plan's first step."""
        self.last_epoch = Totals(state["last_epoch"])
        self.latest = dict(state["latest"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Assign values that callbacks log to the first update."""
        set_logged_step(trainer, self.plan.first_step + 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the training meter where a reading is due."""
        assert isinstance(pl_module, SupervisedModule)
        step = pl_module.step
        if step == self._seen_step:
            return
        self._seen_step = step
        set_logged_step(trainer, step)  # the last one of a chunk, which Lightning takes for one batch
        if not pl_module.automatic_optimization:
            set_global_step(trainer, step)
        if self.plan.reads_at(step):
            self._read(trainer, pl_module, step)
        if step == self.plan.last_epoch_start:
            self._look_at_waiting(in_batch=True)
            # What the meter has seen of its present window is not of the last epoch.
            self.last_epoch = Totals.zero(self.num_sums) - Totals.of(pl_module.train_meter)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the validation found."""
        assert isinstance(pl_module, SupervisedModule)
        self._look_at_waiting(in_batch=False)
        values = pl_module.compute_metrics()
        self.latest.update(values)
        pl_module.log_dict({k: v for k, v in values.items() if not k.startswith("test/")}, logger=False)
        _log(trainer, pl_module.step, values)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last steps if a callback has ended the run between two readings."""
        assert isinstance(pl_module, SupervisedModule)
        self._look_at_waiting(in_batch=False)
        if trainer.should_stop and pl_module.step > self._read_step:
            self._read(trainer, pl_module, pl_module.step, in_batch=False)

    def _read(self, trainer: Trainer, module: SupervisedModule, step: int, in_batch: bool = True) -> None:
        self._read_step = step
        if not self.reads_late:
            totals = Totals.of(module.train_meter)
            module.train_meter.reset()
            self._log_window(trainer, module, step, totals, in_batch)
            return
        late = LateTotals(module.train_meter)
        module.train_meter.reset()
        self._look_at_waiting(in_batch)
        self._waiting = trainer, module, step, late
        if not in_batch or step == self.plan.max_steps:
            self._look_at_waiting(in_batch)

    def _look_at_waiting(self, in_batch: bool) -> None:
        """Log the previous window, whose sums have arrived from the device by now."""
        if self._waiting is not None:
            (trainer, module, step, late), self._waiting = self._waiting, None
            self._log_window(trainer, module, step, late.get(), in_batch)

    def _log_window(
        self, trainer: Trainer, module: SupervisedModule, step: int, totals: Totals, in_batch: bool
    ) -> None:
        if not math.isfinite(totals.loss):
            self._give_up(totals, step)
        if step > self.plan.last_epoch_start:
            self.last_epoch += totals
        values = {f"train/{name}": value for name, value in module.values(totals).items()}
        self.latest.update(values)
        if in_batch:
            module.log_dict(values, logger=False, on_step=True, on_epoch=False)
        clock = {"epoch": step * self.plan.epochs_per_step, "lr": module.schedule(step - 1)}
        _log(trainer, step, {**clock, **values})

    def _give_up(self, totals: Totals, step: int) -> None:
        """Raise `Diverged` with the first step whose loss was not finite, and the values before it."""
        every = self.plan.log_every_steps
        window_start = (step - 1) // every * every
        num_finite_steps = math.floor(totals.num_finite_images / totals.num_images * (step - window_start))
        last = dict(self.latest)
        if totals.finite_loss is not None:
            last["train/loss"] = totals.finite_loss
        raise Diverged(window_start + num_finite_steps + 1, finite(last))


def _log(trainer: Trainer, step: int, values: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(values, step=step)
