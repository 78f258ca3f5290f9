"""Training and testing one run: the plan, the callbacks, the loggers and Lightning's trainer around a module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers.logger import DummyLogger, Logger

from depthlab.config.schema import TrainConfig
from depthlab.data.loaders import TrainBatches
from depthlab.records.checkpoints import save_checkpoint
from depthlab.records.directory import check_still_ours
from depthlab.records.record import as_written
from depthlab.runs.build import build_chunks, build_trainer
from depthlab.runs.callbacks import build_callbacks
from depthlab.training.callbacks.checkpointing import StopRequest
from depthlab.training.callbacks.metric_logger import MetricLogger
from depthlab.training.callbacks.stopwatch import Stopwatch
from depthlab.training.endings import Interrupted
from depthlab.training.graph_steps import CAPTURES, GraphStepper
from depthlab.training.loggers import build_loggers, flush_loggers
from depthlab.training.plan import Plan
from depthlab.training.resume_state import capture, load_errors
from depthlab.training.spec import LoggerPlace

if TYPE_CHECKING:
    from depthlab.data.datamodule import ImageDataModule
    from depthlab.records.journal import Journal
    from depthlab.training.module import SupervisedModule


class Fit:
    """What a run trains and tests with.

    Args:
        config: the run's.
        directory: the run's.
        data: its images.
        module: its network; `module.step` is where it goes on.
        chosen: the callbacks of the configuration.
        journal: is told of checkpoints.
        stopwatch: times the training.
        state: what the run continues from, None at its start.
        watchers: callbacks after those of the run, which decide nothing.
    """

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        data: ImageDataModule,
        module: SupervisedModule,
        chosen: list[Callback],
        journal: Journal,
        stopwatch: Stopwatch,
        state: dict[str, Any] | None,
        watchers: Sequence[Callback] = (),
    ) -> None:
        self.config = config
        self.directory = directory
        self.data = data
        self.module = module
        self.journal = journal
        self.watchers = watchers
        self.plan = make_plan(config, data.num_images("train"), module.step)
        self._reason_before: str | None = (state or {}).get("stopped_early")
        self.stopwatch = stopwatch
        self.stop = StopRequest()
        self.curves = MetricLogger(self.plan, module.task.num_sums)
        if state:
            with load_errors(state):
                self.curves.restore(state["log"])
        self.callbacks = build_callbacks(
            config, directory, data, self.plan, chosen, self.curves, self.stopwatch, self.stop, self.save, state
        )
        if state and not self._trains:
            self.callbacks.restore(state)
        self.trainer = self._build_trainer()

    @property
    def _trains(self) -> bool:
        """Whether steps are left: none are where a continuation starts at the last one, or was ended by a callback."""
        return self.plan.first_step < self.plan.max_steps and self._reason_before is None

    def train(self) -> None:
        """Train up to the last step, or up to where a callback ends the run."""
        if self._trains:
            with self.stop.listening():
                self.trainer.fit(self.module, datamodule=self.data)
            if self.stop.is_made and self.trainer.is_global_zero:  # since the processes agreed to go on
                raise Interrupted

    def test(self) -> None:
        """Measure every split once, with the last weights."""
        self.trainer.test(self.module, datamodule=self.data, verbose=False)

    def save(self, trainer: Trainer, module: SupervisedModule) -> None:
        """Write a checkpoint."""
        state = capture(trainer, module, self.curves.state())  # every process: it adds up their sums
        state["code"] = {key: each for key, each in (self.journal.record.code or {}).items() if key != "diff"}
        if trainer.should_stop and module.step < self.plan.max_steps:
            state["stopped_early"] = self._stop_reason()
        state["preprocessing"] = self.data.preprocessing.state()
        state["record"] = as_written(replace(self.journal.record, steps=module.step))
        if trainer.is_global_zero:
            check_still_ours(self.directory)
            flush_loggers(trainer.loggers)
            save_checkpoint(self.directory, module.step, state)
            self.journal.note(module.step, self.stopwatch)
            self._name_unsaved()

    def _name_unsaved(self) -> None:
        for name, attributes in self.callbacks.unsaved.found().items():
            print(
                f"{self.directory.name}: the callback {name} changes {', '.join(attributes)} and saves no state_dict: "
                "a continued run starts with that anew",
                flush=True,
            )

    def stopped_early(self) -> dict[str, Any] | None:
        """At which step, and why, a callback ended the run before its last step; None where none did."""
        if self.module.step >= self.plan.max_steps:
            return None
        return {"step": self.module.step, "reason": self._stop_reason()}

    def ema_metrics(self) -> dict[str, float] | None:
        """What every split gives with the averaged weights; None where the run averages none."""
        average = self.callbacks.averages
        if average is None or not average.averages():
            return None
        with average.in_place(self.module):
            build_trainer(self.config.trainer, None, [], []).test(self.module, datamodule=self.data, verbose=False)
            return self.module.compute_metrics()

    def _build_trainer(self) -> Trainer:
        chunks, why_not = build_chunks(self.config, self.plan, self.callbacks.all)
        plan, block_end = self.plan, chunks.end if chunks else None
        self.data.train_loader = TrainBatches(
            plan.first_batch, plan.num_batches, plan.batches_per_validation, block_end
        )
        if chunks:
            self._step_in_chunks()
        if self.journal.writes:
            for line in [*self.journal.changes(), *([why_not] if why_not else [])]:
                print(f"{self.directory.name}: {line}")
        loggers = self._build_loggers()
        callbacks = [*self.callbacks.all, *self.watchers]
        return build_trainer(self.config.trainer, self.directory, loggers, callbacks, clips=chunks is None)

    def _step_in_chunks(self) -> None:
        """Have the updates made in chunks, which clip their gradients themselves."""
        trainer = self.config.trainer
        capture = CAPTURES.get(trainer.accelerator)
        steps = GraphStepper(
            self.data, trainer.steps_per_replay, trainer.gradient_clip_val, capture, self._note_failed_capture
        )
        self.module.train_in_chunks(steps.run)
        self.module.build_optimizer = partial(self.module.build_optimizer, captured=capture is not None)
        self.curves.reads_late = capture is not None
        self.journal.record_captured(capture is not None)

    def _note_failed_capture(self, why: str) -> None:
        self.journal.record_captured(False)
        if self.journal.writes:
            print(f"{self.directory.name}: {why}", flush=True)

    def _build_loggers(self) -> list[Logger]:
        if not self.journal.writes:
            return [DummyLogger()]  # LearningRateMonitor refuses to work without a logger
        place = LoggerPlace(self.directory, self.plan.first_step, self.config.logger.wandb_project)
        return build_loggers(place, self.config.loggers.values())

    def _stop_reason(self) -> str:
        """Why the run ended before its last step, as far as callbacks say."""
        if self._reason_before is not None:
            return self._reason_before
        for callback in self.callbacks.chosen:
            if isinstance(callback, EarlyStopping) and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
                return f"EarlyStopping: {_why_stopped(callback)}"
        names = ", ".join(type(callback).__name__ for callback in self.callbacks.chosen) or "a callback"
        return f"trainer.should_stop was set ({names})"


def _why_stopped(callback: EarlyStopping) -> str:
    if callback.stopping_reason != EarlyStoppingReason.PATIENCE_EXHAUSTED:
        return str(callback.stopping_reason_message)
    best = callback.best_score.item()
    return f"{callback.monitor} did not improve on {best:.6g} in {callback.wait_count} validations"


def make_plan(config: TrainConfig, num_images: int, first_step: int) -> Plan:
    """The plan of a run on so many training images that goes on from a step."""
    trainer, checkpoint = config.trainer, config.checkpoint
    images_per_step = config.data.batch_size * trainer.accumulate_grad_batches
    if config.data.last_batch == "short":  # an epoch's last update counts as a whole one
        num_images = math.ceil(num_images / images_per_step) * images_per_step
    return Plan(
        max_steps=trainer.max_steps,
        val_every_steps=trainer.val_every_steps,
        log_every_steps=config.logger.every_steps,
        batch_size=config.data.batch_size,
        images_per_epoch=num_images,
        batches_per_step=trainer.accumulate_grad_batches,
        first_step=first_step,
        save_every_steps=checkpoint.every_steps,
        save_every_seconds=None if checkpoint.every_minutes is None else 60 * checkpoint.every_minutes,
    )
