"""The callback that fills TensorBoard beyond the curves: the layout of the charts, images, histograms, HPARAMS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from depthlab.data.datamodule import ImageDataModule
from depthlab.training import tensorboard_images
from depthlab.training.callbacks.diagnostics import Predictions
from depthlab.training.callbacks.gradient_norms import GradientNorms
from depthlab.training.loggers import EventFileLogger
from depthlab.training.module import SupervisedModule

GRID_IMAGES = 32
GRID_COLUMNS = 8


def layout(primary: str) -> dict[str, Any]:
    """The charts of the paper's Figure 6; every run writes the same layout, and TensorBoard merges them by titles."""
    training, testing = f"^train/{primary}$", f"^(val|test)/{primary}$"
    title, unit = ("error", " (%)") if primary == "err" else (primary, "")
    return {
        "depth": {
            f"training {title}{unit}": ["Multiline", [training]],
            f"validation or test {title}{unit}": ["Multiline", [testing]],
            f"training and validation or test {title}{unit}": ["Multiline", [training, testing]],
        }
    }


class Dashboard(Callback):
    """Tells the run's event file what the network sees, how its gradients stand and how it ends.

    Each thing is written once however often the run is continued: what belongs to step 0 by the segment that
    starts there, and what an earlier segment wrote beyond its checkpoint is hidden when the next one opens the file.

    Args:
        data: the images.
        gradients: comes before this callback and has measured.
        predictions: likewise; None where the task has no classes.
        hparams: what the HPARAMS tab shows; all that the run has, since TensorBoard takes the columns from one run.
        primary: the metric that the HPARAMS tab shows.
    """

    def __init__(
        self,
        data: ImageDataModule,
        gradients: GradientNorms,
        predictions: Predictions | None,
        hparams: Mapping[str, Any],
        primary: str = "err",
    ) -> None:
        self.data = data
        self.gradients = gradients
        self.predictions = predictions
        self.primary = primary
        self.hparams = {key: str(value).lower() if isinstance(value, bool) else value for key, value in hparams.items()}
        self._trained = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The layout, the inputs of the first step, and the initial gradients."""
        assert isinstance(pl_module, SupervisedModule)
        self._trained = True
        if trainer.is_global_zero and pl_module.step == 0:
            writer = event_logger(trainer).experiment
            writer.add_custom_scalars(layout(self.primary))
            images = self.data.train_batch(0, pl_module.device).images[:GRID_IMAGES]
            writer.add_image("inputs/train", tensorboard_images.grid(images, GRID_COLUMNS), 0, dataformats="HWC")
            self._add_gradients(trainer, 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The gradients, where they were measured."""
        assert isinstance(pl_module, SupervisedModule)
        if trainer.is_global_zero:
            self._add_gradients(trainer, pl_module.step)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The confusion matrix, and the final errors beside the run's hyper-parameters."""
        assert isinstance(pl_module, SupervisedModule)
        values = pl_module.compute_metrics()  # every process: it adds up their sums
        if trainer.is_global_zero and (self._trained or not _has_final(event_logger(trainer), self.primary)):
            self._add_final(event_logger(trainer), pl_module.step, values)

    def _add_final(self, logger: EventFileLogger, step: int, values: dict[str, float]) -> None:
        if self.predictions is not None:
            predicted = self.predictions.predicted.numpy()
            picture = tensorboard_images.confusion(self.predictions.labels, predicted, self.data.classes)
            logger.experiment.add_image("confusion/test", picture, step, dataformats="HWC")
        own = f"/{self.primary}"
        errors = {f"final/{name.replace('/', '_')}": value for name, value in values.items() if name.endswith(own)}
        # Last: these are what `_has_final` looks for.
        logger.log_hyperparams(self.hparams, dict(reversed(errors.items())), step)

    def _add_gradients(self, trainer: Trainer, step: int) -> None:
        norms = self.gradients.series.get(step)
        if norms is None:
            return
        stages: dict[str, list[float]] = {}
        for layer, norm in zip(self.gradients.layers, norms.tolist(), strict=True):
            stages.setdefault(layer.split(".")[0], []).append(norm)
        for stage, values in stages.items():
            finite = np.array([value for value in values if np.isfinite(value)])
            if len(finite):  # a histogram of nothing is refused, and a run about to diverge has nothing finite
                event_logger(trainer).experiment.add_histogram(f"gradient_norm/{stage}", finite, step)


def event_logger(trainer: Trainer) -> EventFileLogger:
    """The run's event file."""
    return next(logger for logger in trainer.loggers if isinstance(logger, EventFileLogger))


def _has_final(logger: EventFileLogger, primary: str) -> bool:
    """Whether a segment that was cut off between its test and its record has written the final errors."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # for this rare case only

    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 1, "images": 1, "histograms": 1})
    return f"final/test_{primary}" in events.Reload().Tags()["scalars"]
