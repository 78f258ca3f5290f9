"""Loggers: metrics.csv always, and those that the configuration switches on."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from depthlab.records.curve_file import CurveFile
from depthlab.training.spec import LoggerPlace, LoggerSpec


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
        """The folder beside metrics.csv in which a ModelCheckpoint without `dirpath` writes."""
        return "lightning"

    @property
    def version(self) -> str:
        """Empty: each run has one file."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row."""
        assert step is not None
        self._file.append(step, _without_spans(metrics))

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

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to each curve."""
        super().log_metrics(_without_spans(metrics), step)

    def save(self) -> None:
        """Nothing: Lightning would leave an hparams.yaml here, and the configuration is in the record."""


def _without_spans(metrics: Mapping[str, float]) -> dict[str, float]:
    """What is logged, without the "epoch" that Lightning adds to what callbacks log: spans between validations.

    The epochs of our own readings come with the learning rate.
    """
    return {name: value for name, value in metrics.items() if name != "epoch" or "lr" in metrics}


def build_loggers(place: LoggerPlace, others: Iterable[LoggerSpec]) -> list[Logger]:
    """The loggers of a run, for the one process that writes."""
    return [CurveFileLogger(place.directory, place.first_step), *(spec.build(place) for spec in others)]


def open_event_file(directory: Path, first_step: int) -> EventFileLogger:
    """TensorBoard events of a run that continues from `first_step`."""
    if not first_step:
        _remove_events(directory)
    # purge_step hides what an earlier segment logged after the step that this one continues from.
    purge_step = first_step + 1 if first_step else None
    return EventFileLogger(directory.parent, name=directory.name, version="", purge_step=purge_step)


def _remove_events(directory: Path) -> None:
    """Remove the events of a segment without a checkpoint: they are logged again, including those of step 0."""
    for path in directory.glob("events.out.tfevents.*"):
        path.unlink()


def flush_loggers(loggers: list[Logger]) -> None:
    """Flush the loggers, so that a kill loses no point before a checkpoint."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()
        elif isinstance(logger, CurveFileLogger):
            logger.flush()
