"""The progress of a run: a bar on a terminal, otherwise a line every half minute, and progress.json."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TextColumn
from rich.status import Status

from depthlab.config.console import TextConsole
from depthlab.records import progress_file
from depthlab.training.callbacks.metric_logger import MetricLogger
from depthlab.training.module import SupervisedModule
from depthlab.training.plan import Plan

SHOW_EVERY_SECONDS = 0.2
WRITE_EVERY_SECONDS = 1.0
PRINT_EVERY_SECONDS = 30.0


def clock(seconds: float | None) -> str:
    """Seconds as h:mm:ss, "-:--:--" where they are not known."""
    return "-:--:--" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


class ProgressView(Callback):
    """Shows step, loss, error, learning rate, images per second and time left.

    Args:
        title: the run's name in the bar.
        directory: where progress.json is written for other processes, such as `status`.
        plan: the end of the run, and the images of a step.
        curves: has the latest values.
        metric: the name, title and unit of the metric that is shown beside the loss.
        draws: False where a progress bar of Lightning's shows the run; progress.json is written all the same.
    """

    def __init__(
        self,
        title: str,
        directory: Path,
        plan: Plan,
        curves: MetricLogger,
        metric: tuple[str, str, str],
        draws: bool = True,
    ) -> None:
        self.title = title
        self.directory = directory
        self.max_steps = plan.max_steps
        self.images_per_step = plan.images_per_step
        self.curves = curves
        self.metric = metric
        self.draws = draws
        self.console = TextConsole()
        self._bar: Progress | None = None
        self._status: Status | None = None
        self._first_step = 0
        self._warm_step = 0
        self._warm_at = 0.0
        self._shown_at = self._written_at = self._printed_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        assert isinstance(pl_module, SupervisedModule)
        self._first_step = self._warm_step = pl_module.step
        self._warm_at = self._printed_at = time.monotonic()
        if self.draws and trainer.is_global_zero and self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.add_task(self.title, total=self.max_steps, completed=pl_module.step, text="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the display, at most every SHOW_EVERY_SECONDS."""
        assert isinstance(pl_module, SupervisedModule)
        now = time.monotonic()
        if self._warm_step == self._first_step:  # the first batch, or block, compiles and captures: no estimate of it
            self._warm_step, self._warm_at = pl_module.step, now
        elif trainer.is_global_zero and now - self._shown_at >= SHOW_EVERY_SECONDS:
            self._shown_at = now
            self._show(pl_module, now)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that the last weights are being evaluated, which takes a while on large data sets."""
        assert isinstance(pl_module, SupervisedModule)
        if trainer.is_global_zero:
            self._write(pl_module.step, None, None)
            if self.draws and self.console.is_terminal:
                self._status = self.console.status(f"{self.title}  measuring every split with the last weights")
                self._status.start()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the display."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def _show(self, module: SupervisedModule, now: float) -> None:
        steps_per_second = (module.step - self._warm_step) / max(now - self._warm_at, 1e-9)
        seconds_left = (self.max_steps - module.step) / steps_per_second if steps_per_second else None
        images_per_second = steps_per_second * self.images_per_step
        latest = self.curves.latest
        parts = [f"step {module.step:,}/{self.max_steps:,}"]
        if "train/loss" in latest:
            name, title, unit = self.metric
            value = latest[f"train/{name}"]
            shown = f"{value:.2f} {unit}" if unit else f"{value:.4g}"
            parts += [f"loss {latest['train/loss']:.3f}", f"{title} {shown}"]
        parts += [f"lr {module.schedule(module.step):.3g}", f"{images_per_second:,.0f} img/s"]
        text = "  ".join([*parts, f"left {clock(seconds_left)}"])
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=module.step, text=text)
        elif self.draws and now - self._printed_at >= PRINT_EVERY_SECONDS:
            self._printed_at = now
            print(f"{self.title}  {text}", flush=True)
        if now - self._written_at >= WRITE_EVERY_SECONDS:
            self._written_at = now
            self._write(module.step, images_per_second, seconds_left)

    def _write(self, step: int, images_per_second: float | None, seconds_left: float | None) -> None:
        name, title, unit = self.metric
        value = self.curves.latest.get(f"train/{name}")
        progress = progress_file.Progress(
            step, self.max_steps, value, f"train {title}", unit, images_per_second, seconds_left
        )
        progress_file.write_progress(self.directory, progress)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._status is not None:
            self._status.stop()
            self._status = None
