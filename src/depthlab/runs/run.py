"""One training run, top to bottom: identify, build, fit, test once, record."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from torch import nn

from depthlab.config.check import check_values
from depthlab.config.hardware import Hardware, device_name, peak_memory_mib, probe, resolve
from depthlab.config.identity import Identity, flatten, identify
from depthlab.config.schema import TrainConfig, TrainerConfig, WideNetConfig, as_dict
from depthlab.data.datamodule import ImageDataModule
from depthlab.errors import InputError
from depthlab.models import TwoStream, count_macs, count_params
from depthlab.records.checkpoints import load_newest, save_checkpoint
from depthlab.records.directory import claim, set_aside
from depthlab.records.journal import Journal
from depthlab.records.record import FILE_NAME, read_record
from depthlab.records.weight_files import hash_weights
from depthlab.runs.build import build_blocks, build_classifier, build_data, build_network, build_trainer, start_from
from depthlab.runs.callbacks import build_callbacks
from depthlab.runs.outcome import Outcome, describe, planned
from depthlab.training.callbacks.checkpointing import Interrupted, StopRequest
from depthlab.training.callbacks.metric_logger import Diverged, MetricLogger, eval_metrics, finite
from depthlab.training.callbacks.precise_bn import Stopwatch
from depthlab.training.compiling import compile_training
from depthlab.training.graph_steps import GraphStepper, StepChunks
from depthlab.training.loggers import build_loggers, check_loggers, flush_loggers
from depthlab.training.module import Classifier
from depthlab.training.resume_state import capture, load_errors

Record = dict[str, Any]


def run(config: TrainConfig, command: str, expected: str | None = None) -> Outcome:
    """Do what `config` says, unless it is done already; go on where an earlier start was cut off.

    Args:
        config: a checked configuration.
        command: what a person types to get this run, for the record.
        expected: the name of the run's directory, where that was known before.

    Raises:
        InputError: what was asked for cannot be done here; nothing was overwritten.
    """
    hardware = probe()
    config.trainer = resolve(config.trainer, hardware)
    check_values(config)  # the number of processes is known only now
    identity = identify(hash_weights(flatten(as_dict(config))), config.trainer.devices)
    if expected not in (None, identity.directory):
        raise InputError(
            f"This run was {expected} when its sweep was launched and is {identity.directory} now: the file of "
            f"model.weights={config.model.weights}, or the code that names runs, was changed since. "
            "Bring that back, or start the sweep again as it is now."
        )
    directory = Path(config.paths.log_dir) / config.name / identity.directory
    if config.dry_run:
        return planned(config, directory)
    if not _is_first_process():
        status = _Run(config, command, identity, directory, hardware, {}).execute().status
        return Outcome(status, "", directory)  # the first process speaks for all
    with claim(directory):
        existing = read_record(directory) if (directory / FILE_NAME).exists() else {}
        is_done = existing.get("status") in ("finished", "diverged")
        if is_done and config.rerun:
            print(f"{directory.name}: the run before is now {set_aside(directory)}")
            directory.mkdir()
            existing = {}
        elif is_done:
            return Outcome(existing["status"], f"{describe(existing, directory)} (already finished)", directory)
        try:
            return _Run(config, command, identity, directory, hardware, existing).execute()
        except InputError:
            with suppress(OSError):
                directory.rmdir()  # made for this run, and still empty
            raise


def _is_first_process() -> bool:
    """Not so in the processes that Lightning starts beside this one for data-parallel training."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


class _Run:
    """The objects that the steps of one run share."""

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
        self.stopwatch = Stopwatch()
        self.state = load_newest(directory, _is_first_process()) if existing or not _is_first_process() else None
        self.first_step = self.state["step"] if self.state else 0
        self.images_before = (existing.get("data") or {}).get("fingerprint")
        self.images_per_step: int = config.data.batch_size * config.trainer.accumulate_grad_batches
        self.journal = Journal(
            directory,
            identity,
            as_dict(config),
            command,
            device_name(config.trainer.accelerator, hardware),
            _use_threads(config.trainer, hardware, existing.get("num_threads")),
            self.first_step,
            self.images_per_step,
            existing,
            writes=_is_first_process(),
        )

    def execute(self) -> Outcome:
        """Build, fit, test, record."""
        max_steps = self.config.trainer.max_steps
        try:
            data, module = self._build()
            self._announce()
            trainer, curves = self._fit(module, data)
            trainer.test(module, datamodule=data, verbose=False)
            # A measured loss may be infinite while batch norm's averages are young: that is no divergence.
            if not all(bool(parameter.isfinite().all()) for parameter in module.network.parameters()):
                raise Diverged(max_steps, finite(curves.latest))  # the last update spoilt the weights
        except Diverged as diverged:
            last = {"step": diverged.step, **diverged.last_finite}
            self._close("diverged", diverged.step, divergence=last, metrics=diverged.last_finite)
            return self._outcome("diverged")
        except Interrupted:
            return self._outcome("interrupted")
        except InputError:
            raise  # of what was asked for: the run did not fail, it never was
        except Exception as error:
            self._close("failed", self.journal.record["steps"], failure={"reason": f"{type(error).__name__}: {error}"})
            raise
        self._close("finished", max_steps, metrics=_final_metrics(module, curves))
        return self._outcome("finished")

    def _build(self) -> tuple[ImageDataModule, Classifier]:
        config = self.config
        check_loggers(config.logger.wandb)
        data = build_data(config)
        height, width, channels = data.image_shape
        network = build_network(config, channels, len(data.classes), (height, width))
        if isinstance(network, TwoStream):
            network.rgbl.set_deviations(data.normalization.deviations())
        self.journal.update(data=data.describe())
        self._check_same_images()
        self.journal.update(model=_describe_network(config, network, (channels, height, width)))
        if self.state:
            with load_errors(self.state):
                network.load_state_dict(self.state["network"])
        else:
            self.journal.update(weights=start_from(config, network))
        module = build_classifier(config, network)
        module.step = self.first_step
        if config.trainer.compile:
            compile_training(module, config.trainer.accelerator)
        return data, module

    def _check_same_images(self) -> None:
        """A folder of images counts by its name, and the one of this name may be another now."""
        now = self.journal.record["data"]
        if self.state and self.images_before not in (None, now["fingerprint"]):
            raise InputError(
                f"{now.get('folder', now['name'])}: these are not the images that this run began with "
                f"(fingerprint {now['fingerprint']}, the record's {self.images_before}). "
                f"Bring those back, or remove {self.directory}."
            )

    def _announce(self) -> None:
        self.journal.write()
        if not self.journal.writes:
            return
        OmegaConf.save(OmegaConf.create(self.journal.record["config"]), self.directory / "config.yaml")
        if len(self.journal.record["stretches"]) > 1:
            print(f"{self.directory.name}: continues from step {self.first_step:,}")

    def _fit(self, module: Classifier, data: ImageDataModule) -> tuple[Trainer, MetricLogger]:
        """Train up to the last step; nothing is left to do where a continuation starts there."""
        config, stop = self.config, StopRequest()
        max_steps = config.trainer.max_steps
        curves = MetricLogger(config.logger.every_steps, max_steps, self._images_per_epoch(data), self.images_per_step)
        if self.state:
            with load_errors(self.state):
                curves.restore(self.state["log"], self.first_step)
        loggers = self._loggers()
        callbacks = build_callbacks(
            config, self.directory, data, curves, self.stopwatch, stop, self._saver(curves), self.state
        )
        blocks, obstacle = build_blocks(config, curves.last_epoch_start, callbacks)
        self._take_batches(module, data, blocks)
        if self.journal.writes:
            for line in [*self.journal.changes(), *([obstacle] if obstacle else [])]:
                print(f"{self.directory.name}: {line}")
        trainer = build_trainer(config.trainer, self.directory, loggers, callbacks, clips=blocks is None)
        if self.first_step < max_steps:
            with stop.listening():
                trainer.fit(module, datamodule=data)
        return trainer, curves

    def _images_per_epoch(self, data: ImageDataModule) -> int:
        """Counted in whole updates where an epoch ends with what is left: its last batch is one too."""
        num_images = data.num_images("train")
        if self.config.data.last_batch == "wrap":
            return num_images
        return math.ceil(num_images / self.images_per_step) * self.images_per_step

    def _take_batches(self, module: Classifier, data: ImageDataModule, blocks: StepChunks | None) -> None:
        """Say which batches are to come, where Lightning validates, and who makes the updates."""
        trainer = self.config.trainer
        per_step = trainer.accumulate_grad_batches
        first, total, span = (per_step * n for n in (self.first_step, trainer.max_steps, trainer.val_every_steps))
        data.take(first, total, span, blocks.end if blocks else None)
        if blocks:
            capture = trainer.accelerator == "gpu"
            steps = GraphStepper(lambda n: data.train_batch(n, module.device), trainer.gradient_clip_val, capture)
            module.train_in_blocks(steps.run)
            module.build_optimizer = partial(module.build_optimizer, fused=capture)  # a block clips its own gradients
            self.journal.record_captured(capture)

    def _loggers(self) -> list[Logger]:
        logger = self.config.logger
        if not self.journal.writes:
            return []
        return build_loggers(self.directory, self.first_step, logger.tensorboard, logger.wandb, logger.wandb_project)

    def _saver(self, curves: MetricLogger) -> Callable[[Trainer, Classifier], None]:
        def save(trainer: Trainer, module: Classifier) -> None:
            state = capture(trainer, module, curves.state())  # every process: it adds up their sums
            if trainer.is_global_zero:
                flush_loggers(trainer.loggers)
                save_checkpoint(self.directory, module.step, state)
                self.journal.note(module.step, self.stopwatch)

        return save

    def _close(self, status: str, step: int, **results: Any) -> None:
        memory = peak_memory_mib(self.config.trainer.accelerator)
        self.journal.close(status, step, self.stopwatch, peak_memory_mib=memory, **results)

    def _outcome(self, status: str) -> Outcome:
        return Outcome(status, describe(self.journal.record, self.directory), self.directory)


def _describe_network(config: TrainConfig, network: nn.Module, image_shape: tuple[int, int, int]) -> Record:
    """What a record says of the network. Depth and residual are null where they would mean nothing."""
    try:
        num_macs = count_macs(network, image_shape)
    except RuntimeError as error:
        size = " x ".join(map(str, image_shape[1:]))
        raise InputError(f"model.name={config.model.name}: not for images of {size} pixels ({error}).") from None
    return {
        "name": config.model.name,
        "depth": getattr(config.model, "depth", None),
        "residual": getattr(config.model, "residual", True if isinstance(config.model, WideNetConfig) else None),
        "num_params": count_params(network),
        "num_macs": num_macs,
    }


def _use_threads(trainer: TrainerConfig, hardware: Hardware, recorded: int | None) -> int:
    """Set the number of CPU threads; a continuation keeps its own, on which the order of sums depends."""
    share = hardware.cpu_cores // (trainer.devices if trainer.accelerator == "cpu" else 1)
    num_threads = recorded or trainer.num_threads or max(1, share)
    torch.set_num_threads(num_threads)
    return num_threads


def _final_metrics(module: Classifier, curves: MetricLogger) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {"val/loss": None, "val/err": None}
    metrics.update(eval_metrics(module))
    metrics["train/loss_running"] = curves.last_epoch.loss
    metrics["train/err_running"] = curves.last_epoch.err
    return dict(sorted(metrics.items()))
