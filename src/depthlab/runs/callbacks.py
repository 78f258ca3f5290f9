"""The callbacks of a run, in the order in which they act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from depthlab.config.identity import flatten, name_repetition
from depthlab.config.schema import TrainConfig, as_dict
from depthlab.data.datamodule import ImageDataModule
from depthlab.training.callbacks.checkpointing import Checkpoints, Save, StopRequest
from depthlab.training.callbacks.dashboard import Dashboard
from depthlab.training.callbacks.diagnostics import LayerResponses, Predictions
from depthlab.training.callbacks.gradient_norms import GradientNorms
from depthlab.training.callbacks.metric_logger import MetricLogger
from depthlab.training.callbacks.precise_bn import AveragedBatchNorm, Stopwatch
from depthlab.training.callbacks.progress import ProgressView
from depthlab.training.resume_state import RestoreState


def build_callbacks(
    config: TrainConfig,
    directory: Path,
    data: ImageDataModule,
    curves: MetricLogger,
    stopwatch: Stopwatch,
    stop: StopRequest,
    save: Save,
    state: dict[str, Any] | None,
) -> list[Callback]:
    """At a boundary the curves are read first, then batch norm is averaged, the state saved, and progress shown.

    Args:
        config: the run's.
        directory: the run's.
        data: its images.
        curves: reads the meters and tells the loggers.
        stopwatch: times the training.
        stop: asks the run to stop.
        save: writes a checkpoint.
        state: what the run continues from, None at its start.
    """
    trainer, checkpoint = config.trainer, config.checkpoint
    callbacks: list[Callback] = [RestoreState(state)] if state else []
    callbacks += [stopwatch, curves]
    if trainer.bn_statistics == "averaged":
        first_number = trainer.max_steps * trainer.accumulate_grad_batches
        callbacks.append(AveragedBatchNorm(data, trainer.max_steps, first_number))
    callbacks += build_diagnostics(config, directory, data)
    saving = Checkpoints(
        save,
        checkpoint.every_steps,
        checkpoint.every_minutes,
        trainer.val_every_steps,
        trainer.max_steps,
        config.logger.every_steps,
        stop,
    )
    title = f"{config.model.name} {name_repetition(config.seed, config.data.fold)}"
    images_per_step = config.data.batch_size * trainer.accumulate_grad_batches
    return [*callbacks, saving, ProgressView(title, directory, trainer.max_steps, images_per_step, curves)]


def build_diagnostics(config: TrainConfig, directory: Path, data: ImageDataModule) -> list[Callback]:
    """What the report's figures and TensorBoard need besides the curves."""
    gradients = GradientNorms(data, directory, config.trainer.max_steps, config.trainer.val_every_steps)
    predictions = Predictions(data, directory)
    callbacks = [gradients, LayerResponses(data, directory), predictions]
    if config.logger.tensorboard:
        callbacks.append(Dashboard(data, gradients, predictions, flatten(as_dict(config))))
    return callbacks
