"""The callbacks of a run, in the order in which they act."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar

from depthlab.config.identity import find_key, flatten, name_repetition
from depthlab.config.schema import TrainConfig, as_dict
from depthlab.data.datamodule import ImageDataModule
from depthlab.training.callbacks.checkpointing import Checkpoints, Save, StopRequest
from depthlab.training.callbacks.dashboard import Dashboard
from depthlab.training.callbacks.diagnostics import LayerResponses, Predictions
from depthlab.training.callbacks.gradient_norms import GradientNorms
from depthlab.training.callbacks.metric_logger import MetricLogger
from depthlab.training.callbacks.precise_bn import AveragedBatchNorm
from depthlab.training.callbacks.progress import ProgressView
from depthlab.training.callbacks.stopwatch import Stopwatch
from depthlab.training.callbacks.weight_averaging import WeightAverage
from depthlab.training.plan import Plan
from depthlab.training.resume_state import RestoreState, UnsavedState


@dataclass(frozen=True)
class CallbackList:
    """The callbacks of a run, and those among them that the run asks for results."""

    all: list[Callback]
    chosen: list[Callback]
    curves: MetricLogger
    stopwatch: Stopwatch
    unsaved: UnsavedState

    @property
    def averages(self) -> WeightAverage | None:
        """What keeps averaged weights, where the run has such."""
        return next((each for each in self.chosen if isinstance(each, WeightAverage)), None)

    def restore(self, state: dict[str, Any]) -> None:
        """Put the states of a checkpoint back where no training follows that would do it."""
        saved = state.get("callbacks", {})
        for callback in self.chosen:
            if callback.state_key in saved:
                callback.load_state_dict(saved[callback.state_key])


def build_callbacks(
    config: TrainConfig,
    directory: Path,
    data: ImageDataModule,
    plan: Plan,
    chosen: list[Callback],
    curves: MetricLogger,
    stopwatch: Stopwatch,
    stop: StopRequest,
    save: Save,
    state: dict[str, Any] | None,
) -> CallbackList:
    """At a boundary the curves are read first, then those of the configuration act, batch norm is averaged, and the
    state is saved.

    Args:
        config: the run's.
        directory: the run's.
        data: its images.
        plan: its steps.
        chosen: the callbacks of the configuration.
        curves: reads the meters.
        stopwatch: times the training.
        stop: asks the run to stop.
        save: writes a checkpoint.
        state: what the run continues from, None at its start.
    """
    callbacks: list[Callback] = [RestoreState(state, plan.first_lightning_epoch)] if state else []
    callbacks += [stopwatch, curves, *chosen]
    if config.trainer.bn_statistics == "averaged":
        callbacks.append(AveragedBatchNorm(data, plan))
    callbacks += build_diagnostics(config, directory, data, plan)
    title = f"{config.model.name} {name_repetition(config.seed, config.data.fold)}"
    metric = _primary_metric(config, data)
    draws = not any(isinstance(callback, ProgressBar) for callback in chosen)
    callbacks += [Checkpoints(save, plan, stop), ProgressView(title, directory, plan, curves, metric, draws)]
    # A callback that only watches may begin anew.
    counting = [callback for spec, callback in zip(config.callbacks.values(), chosen, strict=True) if spec.identity]
    unsaved = UnsavedState(counting)
    return CallbackList([*callbacks, unsaved], chosen, curves, stopwatch, unsaved)


def build_diagnostics(config: TrainConfig, directory: Path, data: ImageDataModule, plan: Plan) -> list[Callback]:
    """What the report's figures and TensorBoard need besides the curves."""
    gradients = GradientNorms(data, directory, plan)
    predictions = Predictions(data, directory) if data.classes else None
    callbacks: list[Callback] = [gradients, LayerResponses(data, directory), *([predictions] if predictions else [])]
    if "tensorboard" in config.loggers:
        callbacks.append(Dashboard(data, gradients, predictions, hyper_parameters(config), config.task.primary))
    return callbacks


def hyper_parameters(config: TrainConfig) -> dict[str, Any]:
    """The values of the keys that tables of runs show."""
    flat = flatten(as_dict(config))
    shown = {}
    for key, value in flat.items():
        info = find_key(key, flat)
        if key in ("optimizer.name", "schedule.name", "data.name") or (info is not None and info.column):
            shown[key] = value
    return shown


def _primary_metric(config: TrainConfig, data: ImageDataModule) -> tuple[str, str, str]:
    """Name, title and unit of the metric that is shown while the run trains."""
    name = config.task.primary
    metrics = config.task.describe(data.num_outputs, {})["metrics"]
    return name, metrics[name]["title"], metrics[name]["unit"]
