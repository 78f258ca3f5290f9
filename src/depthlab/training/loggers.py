"""Who is told about the curves: metrics.csv always, TensorBoard and Weights & Biases where asked."""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from depthlab.errors import InputError
from depthlab.records.curve_file import CurveFile


class CurveFileLogger(Logger):
    """metrics.csv in the run's directory.

    Lightning's CSVLogger rewrites its whole file when a column appears, and keeps the rows after the step that a
    continuation goes back to; this one has fixed columns and drops them.
    """

    def __init__(self, directory: Path, continue_from: int) -> None:
        super().__init__()
        self._file = CurveFile(directory, continue_from)

    @property
    def name(self) -> str:
        """What Lightning calls it."""
        return "metrics.csv"

    @property
    def version(self) -> str:
        """There is one file a run."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row."""
        assert step is not None
        self._file.append(step, metrics)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration is in the record."""

    def flush(self) -> None:
        """Have every row on disk."""
        self._file.flush()

    def finalize(self, status: str) -> None:
        """Close the file."""
        self._file.close()


class EventFileLogger(TensorBoardLogger):
    """TensorBoard events in the run's directory."""

    def save(self) -> None:
        """Nothing: Lightning would leave an hparams.yaml here, and the configuration is in the record."""


def check_loggers(wandb: bool) -> None:
    """Refuse what needs an extra that is not installed, before anything is built.

    Raises:
        InputError: says what to install.
    """
    if wandb and importlib.util.find_spec("wandb") is None:
        raise InputError("logger=wandb: wandb is not installed. Type: pip install -e '.[wandb]'")


def build_loggers(
    directory: Path, continue_from: int, tensorboard: bool, wandb: bool, wandb_project: str | None
) -> list[Logger]:
    """The loggers of a run that goes on from step `continue_from`, for the one process that writes."""
    loggers: list[Logger] = [CurveFileLogger(directory, continue_from)]
    if tensorboard:
        if not continue_from:
            _remove_events(directory)
        # purge_step hides what an earlier stretch logged after the step that this one continues from.
        purge_step = continue_from + 1 if continue_from else None
        loggers.append(EventFileLogger(directory.parent, name=directory.name, version="", purge_step=purge_step))
    if wandb:
        # The run's name is its identity, so that a continuation goes on in the same place.
        name = directory.name
        loggers.append(WandbLogger(project=wandb_project, name=name, id=name, save_dir=directory, resume="allow"))
    return loggers


def _remove_events(directory: Path) -> None:
    """What a stretch that left no checkpoint logged is all made again, step 0 included."""
    for path in directory.glob("events.out.tfevents.*"):
        path.unlink()


def flush_loggers(loggers: list[Logger]) -> None:
    """Write through what is buffered, so that no point before a checkpoint is lost with a killed process."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()
        elif isinstance(logger, CurveFileLogger):
            logger.flush()
