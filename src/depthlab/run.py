"""One training run, top to bottom: identify, build, fit, test once, record."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf

from depthlab.build import build_classifier, build_data, build_network, build_trainer
from depthlab.data.datamodule import ImageDataModule
from depthlab.errors import InputError
from depthlab.hardware import Hardware, device_name, probe, resolve
from depthlab.models import count_macs, count_params
from depthlab.records.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from depthlab.records.directory import claim, set_aside
from depthlab.records.environment import git_state, versions
from depthlab.records.identity import Identity, identify
from depthlab.records.record import FILE_NAME, read_record, write_record
from depthlab.schema import TrainConfig, as_dict, flatten
from depthlab.training.classifier import Classifier
from depthlab.training.curves import CurveLog, Diverged, measured
from depthlab.training.finishing import AveragedBatchNorm, Stopwatch
from depthlab.training.loggers import build_loggers
from depthlab.training.progress import ProgressView, clock
from depthlab.training.saving import Checkpoints, Interrupted, StopRequest
from depthlab.training.state import Continuation, capture

Record = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: "finished", "diverged", "interrupted" or "planned"; a line that says so; its directory."""

    status: str
    line: str
    directory: Path


def run(config: TrainConfig, command: str) -> Outcome:
    """Do what `config` says, unless it is done already; go on where an earlier start was cut off.

    Args:
        config: a checked configuration.
        command: what a person types to get this run, for the record.

    Raises:
        InputError: what was asked for cannot be done here; nothing was overwritten.
    """
    hardware = probe()
    config.trainer = resolve(config.trainer, hardware)
    identity = identify(flatten(as_dict(config)), config.trainer.devices)
    directory = Path(config.paths.log_dir) / config.name / identity.directory
    if config.dry_run:
        return _plan(config, directory)
    if not _is_first_process():
        return _Run(config, command, identity, directory, hardware, {}).execute()
    with claim(directory):
        existing = read_record(directory) if (directory / FILE_NAME).exists() else {}
        if existing and config.rerun:
            print(f"{directory.name}: the run before is now {set_aside(directory)}")
            directory.mkdir()
            existing = {}
        if existing.get("status") in ("finished", "diverged"):
            return Outcome(existing["status"], f"{_describe(existing, directory)} (already finished)", directory)
        return _Run(config, command, identity, directory, hardware, existing).execute()


def _is_first_process() -> bool:
    """Not so in the processes that Lightning starts beside this one for data-parallel training."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


class _Run:
    """The state that the steps of one run share."""

    def __init__(
        self,
        config: TrainConfig,
        command: str,
        identity: Identity,
        directory: Path,
        hardware: Hardware,
        existing: Record,
    ) -> None:
        self.config = config
        self.directory = directory
        self.hardware = hardware
        self.started = time.monotonic()
        self.num_threads = self._use_threads(existing.get("num_threads"))
        self.state = _latest_state(directory) if existing or not _is_first_process() else None
        self.first_step = self.state["step"] if self.state else 0
        self.record = self._open_record(command, identity, existing)
        self.images_per_step = config.data.batch_size * config.trainer.accumulate_grad_batches
        self.stopwatch = Stopwatch()

    def execute(self) -> Outcome:
        """Build, fit, test, record."""
        config = self.config
        try:
            data = build_data(config)
            network = build_network(config, data.image_shape[2], len(data.classes))
            self._describe_inputs(data, network)
            module = build_classifier(config, network)
            if self.state:
                network.load_state_dict(self.state["network"])
                module.step = self.first_step
            self._write_record()
            trainer = self._fit(module, data)
            trainer.test(module, datamodule=data, verbose=False)
        except Diverged as diverged:
            self.record["divergence"] = {"step": diverged.step, **diverged.last_finite}
            self.record["metrics"] = diverged.last_finite
            return self._close("diverged", diverged.step)
        except Interrupted:
            self._note_progress(self.record["steps"])
            self._write_record()
            line = f"{self.record['run']}: stopped after {self.record['steps']:,} steps; the same command continues it"
            return Outcome("interrupted", line, self.directory)
        except Exception as error:
            self.record["failure"] = {"reason": f"{type(error).__name__}: {error}"}
            self._close("failed", self.record["steps"])
            raise
        self.record["metrics"] = self._final_metrics(module, data)
        return self._close("finished", config.trainer.max_steps)

    def _use_threads(self, recorded: int | None) -> int:
        # The order of sums in a matrix product depends on the number of threads, so a continuation keeps it.
        trainer = self.config.trainer
        share = self.hardware.cpu_cores // (trainer.devices if trainer.accelerator == "cpu" else 1)
        num_threads = recorded or trainer.num_threads or max(1, share)
        torch.set_num_threads(num_threads)
        return num_threads

    def _open_record(self, command: str, identity: Identity, existing: Record) -> Record:
        stretch = {
            "started_at": _now(),
            "from_step": self.first_step,
            "to_step": self.first_step,
            "training_seconds": 0.0,
            "wall_seconds": 0.0,
            "device": device_name(self.config.trainer.accelerator, self.hardware),
            "num_threads": self.num_threads,
            "versions": versions(),
            "git": git_state(),
        }
        stretches = [*existing.get("stretches", []), stretch]
        if len(stretches) > 1:
            _tell_continuation(identity.directory, self.first_step, stretches)
        return {
            "status": "running",
            "name": self.config.name,
            "seed": self.config.seed,
            "run": identity.directory,
            "recipe": identity.recipe,
            "command": command,
            "config": as_dict(self.config),
            "model": {},
            "data": {},
            "metrics": {},
            "steps": self.first_step,
            "wall_seconds": 0.0,
            "images_per_second": None,
            "device": stretch["device"],
            "precision": self.config.trainer.precision,
            "num_processes": self.config.trainer.devices,
            "num_threads": self.num_threads,
            "versions": stretch["versions"],
            "git": stretch["git"],
            "started_at": existing.get("started_at", stretch["started_at"]),
            "finished_at": None,
            "stretches": stretches,
            "failure": None,
            "divergence": None,
        }

    def _describe_inputs(self, data: ImageDataModule, network: torch.nn.Module) -> None:
        height, width, channels = data.image_shape
        model = self.config.model
        self.record["model"] = {
            "name": model.name,
            "depth": model.depth,
            "residual": model.residual,
            "num_params": count_params(network),
            "num_macs": count_macs(network, (channels, height, width)),
        }
        self.record["data"] = {
            "name": data.name,
            "num_train": data.num_images("train"),
            "num_val": data.num_images("val"),
            "num_test": data.num_images("test"),
            "num_classes": len(data.classes),
            "classes": list(data.classes),
            "image_shape": [height, width, channels],
            "fingerprint": data.fingerprint(),
            "test_curve": data.test_curve,
        }

    def _fit(self, module: Classifier, data: ImageDataModule) -> Trainer:
        """Train up to the last step; nothing is left to do where a continuation starts there."""
        config, trainer_config, stop = self.config, self.config.trainer, StopRequest()
        batches_per_step = trainer_config.accumulate_grad_batches
        max_steps = trainer_config.max_steps
        data.take(
            self.first_step * batches_per_step,
            max_steps * batches_per_step,
            trainer_config.val_every_steps * batches_per_step,
        )
        steps_per_epoch = -(-data.num_images("train") // self.images_per_step)
        curves = CurveLog(
            config.logger.every_steps,
            max_steps,
            max(0, max_steps - steps_per_epoch),
            data.num_images("train"),
            self.images_per_step,
        )
        self.curves = curves
        if self.state:
            curves.restore(self.state["log"], self.first_step)
        checkpoints = Checkpoints(
            self._saver(curves),
            config.checkpoint.every_steps,
            config.checkpoint.every_minutes,
            trainer_config.val_every_steps,
            max_steps,
            config.logger.every_steps,
            stop,
        )
        title = f"{config.model.name} seed {config.seed}"
        callbacks: list[Callback] = [
            *([Continuation(self.state)] if self.state else []),
            self.stopwatch,
            curves,
            *self._averaging(data, max_steps * batches_per_step),
            checkpoints,
            ProgressView(title, self.directory, max_steps, self.images_per_step, curves),
        ]
        logger = config.logger
        loggers = build_loggers(self.directory, self.first_step, logger.tensorboard, logger.wandb, logger.wandb_project)
        trainer = build_trainer(trainer_config, self.directory, loggers, callbacks)
        if self.first_step < max_steps:
            with stop.listening():
                trainer.fit(module, datamodule=data)
        return trainer

    def _averaging(self, data: ImageDataModule, first_number: int) -> list[Callback]:
        if self.config.trainer.bn_statistics != "averaged":
            return []
        return [AveragedBatchNorm(data, self.config.trainer.max_steps, first_number)]

    def _saver(self, curves: CurveLog) -> Callable[[Trainer, Classifier], None]:
        def save(trainer: Trainer, module: Classifier) -> None:
            state = capture(trainer, module, curves.state())  # every process: it adds up their sums
            if not trainer.is_global_zero:
                return
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.flush()
            save_checkpoint(self.directory, module.step, state)
            self._note_progress(module.step)
            self._write_record()

        return save

    def _final_metrics(self, module: Classifier, data: ImageDataModule) -> dict[str, float | None]:
        running = self.curves.last_epoch
        metrics: dict[str, float | None] = {"val/loss": None, "val/err": None}
        metrics.update(measured(module))
        metrics["train/loss_running"] = running.loss
        metrics["train/err_running"] = running.err
        return dict(sorted(metrics.items()))

    def _note_progress(self, step: int) -> None:
        stretches, record = self.record["stretches"], self.record
        stretch = stretches[-1]
        stretch["to_step"] = step
        stretch["training_seconds"] = self.stopwatch.seconds
        stretch["wall_seconds"] = time.monotonic() - self.started
        record["steps"] = step
        record["wall_seconds"] = sum(part["wall_seconds"] for part in stretches)
        steps = sum(part["to_step"] - part["from_step"] for part in stretches)
        seconds = sum(part["training_seconds"] for part in stretches)
        record["images_per_second"] = steps * self.images_per_step / seconds if seconds else None

    def _close(self, status: str, step: int) -> Outcome:
        self._note_progress(step)
        self.record["status"] = status
        self.record["finished_at"] = _now()
        self._write_record()
        return Outcome(status, _describe(self.record, self.directory), self.directory)

    def _write_record(self) -> None:
        if _is_first_process():
            write_record(self.directory, self.record)
            config_path = self.directory / "config.yaml"
            if not config_path.exists():
                OmegaConf.save(OmegaConf.create(self.record["config"]), config_path)


def _latest_state(directory: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint; a damaged one is passed over with a line that says so."""
    for path in list_checkpoints(directory):
        try:
            return load_checkpoint(path)
        except InputError as error:
            print(f"{error} Going on from the checkpoint before it.")
    return None


def _tell_continuation(name: str, step: int, stretches: list[dict[str, Any]]) -> None:
    print(f"{name}: continues from step {step:,}")
    before, now = stretches[-2], stretches[-1]
    for key in ("device", "num_threads", "versions", "git"):
        if before[key] != now[key]:
            print(f"{name}: {key} was {before[key]} and is now {now[key]}")


def _plan(config: TrainConfig, directory: Path) -> Outcome:
    status = read_record(directory)["status"] if (directory / FILE_NAME).exists() else "not started"
    trainer = config.trainer
    line = (
        f"{config.model.name} seed {config.seed}: {trainer.max_steps:,} steps on {config.data.name}, "
        f"{trainer.devices} x {trainer.accelerator}, {trainer.precision} -> {directory} ({status})"
    )
    return Outcome("planned", line, directory)


def _describe(record: Record, directory: Path) -> str:
    title = f"{record['model']['name']} seed {record['seed']}"
    after = f"after {record['steps']:,} steps, {clock(record['wall_seconds'])} -> {directory}"
    if record["status"] == "diverged":
        return f"{title}: diverged {after}"
    return f"{title}: test error {record['metrics']['test/err']:.2f} % {after}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
