"""Loggers: what each one writes, and that a continuation doubles nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from depthlab.errors import InputError
from depthlab.records.curve_file import read_curves
from depthlab.training.components.tensorboard import TensorBoard
from depthlab.training.components.wandb import WeightsAndBiases
from depthlab.training.loggers import build_loggers, flush_loggers
from depthlab.training.spec import LoggerPlace


def log(directory: Path, continue_from: int, steps: range) -> None:
    """A stretch of a run: one loss a step, the step's number."""
    directory.mkdir(exist_ok=True)
    loggers = build_loggers(LoggerPlace(directory, continue_from, None), [TensorBoard()])
    for step in steps:
        for logger in loggers:
            logger.log_metrics({"train/loss": float(step)}, step=step)
    flush_loggers(loggers)
    for logger in loggers:
        logger.save()
        logger.finalize("success")


def events(directory: Path) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    return [(point.step, point.value) for point in accumulator.Scalars("train/loss")]


def test_both_files_lie_in_the_runs_directory_and_nothing_else_does(tmp_path: Path) -> None:
    log(tmp_path / "run", 0, range(1, 4))
    names = sorted(path.name.split(".")[0] for path in (tmp_path / "run").iterdir())
    assert names == ["events", "metrics"]
    assert events(tmp_path / "run") == read_curves(tmp_path / "run")["train/loss"] == [(1, 1.0), (2, 2.0), (3, 3.0)]


@pytest.mark.parametrize("checkpoint", [0, 4])
def test_a_continuation_has_each_point_once(tmp_path: Path, checkpoint: int) -> None:
    log(tmp_path / "run", 0, range(1, 8))
    log(tmp_path / "run", checkpoint, range(checkpoint + 1, 10))
    expected = [(step, float(step)) for step in range(1, 10)]
    assert read_curves(tmp_path / "run")["train/loss"] == expected
    assert events(tmp_path / "run") == expected


def test_a_stretch_that_left_no_checkpoint_leaves_no_events(tmp_path: Path) -> None:
    log(tmp_path / "run", 0, range(1, 8))
    log(tmp_path / "run", 0, range(1, 4))
    assert events(tmp_path / "run") == read_curves(tmp_path / "run")["train/loss"] == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_tensorboard_is_written_only_where_asked(tmp_path: Path) -> None:
    loggers = build_loggers(LoggerPlace(tmp_path, 0, None), [])
    assert not any(isinstance(logger, TensorBoardLogger) for logger in loggers)
    assert [type(logger).__name__ for logger in loggers] == ["CurveFileLogger"]


def test_wandb_that_is_not_installed_is_said_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    TensorBoard().check_installed()
    with pytest.raises(InputError, match=r"wandb is not installed.*\[wandb\]"):
        WeightsAndBiases().check_installed()
