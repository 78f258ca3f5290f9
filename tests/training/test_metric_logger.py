"""Which measurements reach the loggers, with which numbers, what each logger writes, and what counts as divergence."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from depthlab.data.batch import Batch
from depthlab.errors import InputError
from depthlab.records.curve_file import read_curves
from depthlab.training.callbacks.metric_logger import MetricLogger
from depthlab.training.components.tensorboard import TensorBoard
from depthlab.training.components.wandb import WeightsAndBiases
from depthlab.training.endings import Diverged
from depthlab.training.loggers import build_loggers, flush_loggers
from depthlab.training.meter import Totals
from depthlab.training.module import SupervisedModule
from depthlab.training.spec import LoggerPlace

from .small import LR_OF_STEP, batch, classifier, plan, trainer


class Rows:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self.rows.append((step, dict(values)))


def log(every_steps: int = 3, images_per_epoch: int = 30, first_step: int = 0) -> MetricLogger:
    """Readings at 3, 6 and 8; an epoch is 3 steps, so that the last one begins after step 5."""
    planned = plan(max_steps=8, log_every_steps=every_steps, images_per_epoch=images_per_epoch, first_step=first_step)
    return MetricLogger(planned, num_sums=1)


def train(
    curves: MetricLogger, module: SupervisedModule, steps: range, spoilt: Mapping[int, float] | None = None
) -> Rows:
    """Steps of 10 images whose mean loss is the step's number, or as spoilt, and of which step % 4 are wrong.

    Whatever the loggers get, stock callbacks can read too.
    """
    rows = Rows()
    logged: dict[str, float] = {}
    module.log_dict = lambda values, **how: logged.update(values)  # type: ignore[method-assign]
    for step in steps:
        module.step = step
        scores, labels = torch.eye(10), torch.arange(10)
        labels[: step % 4] += 1
        loss_sum = torch.tensor((spoilt or {}).get(step, 10.0 * step))
        module.train_meter.update(loss_sum, *module.task.sums(scores, Batch(scores, labels, "train")), 10)
        curves.on_train_batch_end(trainer(loggers=[rows]), module, None, None, 0)
        assert not rows.rows or logged.items() <= rows.rows[-1][1].items()
    assert bool(logged) == bool(rows.rows)
    return rows


def test_each_reading_is_the_mean_since_the_one_before() -> None:
    rows = train(log(), classifier(), range(1, 9)).rows
    assert [step for step, _ in rows] == [3, 6, 8]
    assert [row["train/loss"] for _, row in rows] == [2.0, 5.0, 7.5]
    assert [row["train/err"] for _, row in rows] == pytest.approx([20.0, 10.0, 15.0])


def test_a_reading_says_the_epoch_and_the_rate_that_its_last_update_used() -> None:
    rows = train(log(), classifier(), range(1, 9)).rows
    assert [row["epoch"] for _, row in rows] == pytest.approx([1.0, 2.0, 8 / 3])
    assert [row["lr"] for _, row in rows] == [LR_OF_STEP[2], LR_OF_STEP[1], LR_OF_STEP[3]]


def test_batches_of_one_update_are_read_once() -> None:
    curves, module, rows = log(every_steps=1), classifier(), Rows()
    module.step = 1
    for _ in range(3):
        module.train_meter.update(torch.tensor(1.0), 0, 2)
        curves.on_train_batch_end(trainer(loggers=[rows]), module, None, None, 0)
    assert [step for step, _ in rows.rows] == [1]


@pytest.mark.parametrize("every_steps", [1, 2, 3, 5, 8])
def test_the_running_error_is_that_of_the_last_epoch_wherever_readings_fall(every_steps: int) -> None:
    curves = log(every_steps)
    train(curves, classifier(), range(1, 9))
    assert curves.last_epoch.as_list()[:3] == pytest.approx([10.0 * (6 + 7 + 8), 2 + 3 + 0, 30])


def test_a_run_shorter_than_an_epoch_counts_all_of_it() -> None:
    curves = log(images_per_epoch=1000)
    train(curves, classifier(), range(1, 9))
    assert curves.last_epoch.num_images == 80


def test_an_epoch_that_does_not_divide_is_rounded_up() -> None:
    assert log(images_per_epoch=31).plan.last_epoch_start == 4
    assert log(images_per_epoch=30).plan.last_epoch_start == 5


@pytest.mark.parametrize("cut", [2, 3, 5, 6, 7])
def test_a_continuation_goes_on_with_the_same_numbers(cut: int) -> None:
    whole, first, second = log(), log(), log(first_step=cut)
    expected = train(whole, classifier(), range(1, 9)).rows
    module, continued = classifier(), classifier()
    rows = train(first, module, range(1, cut + 1)).rows
    second.restore(first.state())
    continued.train_meter.put(Totals.of(module.train_meter).as_list())
    assert rows + train(second, continued, range(cut + 1, 9)).rows == expected
    assert second.state() == whole.state()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("step", "loss"), [(1, None), (2, 1.0), (3, 1.5), (4, 2.0), (5, 4.0), (6, 4.5), (8, 7.0)])
def test_divergence_says_the_first_step_and_the_last_finite_values_wherever_readings_fall(
    value: float, step: int, loss: float | None
) -> None:
    curves, module = log(), classifier()
    curves.latest["val/loss"] = value
    with pytest.raises(Diverged) as caught:
        train(curves, module, range(1, 9), {step: value, 6: value} if step < 6 else {step: value})
    assert caught.value.step == step
    last = caught.value.last_finite
    assert last.get("train/loss") == loss
    assert last.keys() <= {"train/loss", "train/err"}


def test_validation_tells_every_split_that_was_measured_and_no_other() -> None:
    module, rows, curves = classifier(), Rows(), log()
    module.step = 6
    for data in (batch("val", seed=0), batch("val", seed=1, n=2), batch("test", seed=2)):
        module.validation_step(data, 0)
    logged: list[dict[str, float]] = []
    module.log_dict = lambda values, **how: logged.append(values)  # type: ignore[method-assign]
    curves.on_validation_epoch_end(trainer(loggers=[rows]), module)
    ((step, values),) = rows.rows
    assert step == 6
    assert set(values) == {"val/loss", "val/err", "test/loss", "test/err"}
    assert values == module.compute_metrics() == curves.latest
    assert logged == [{name: values[name] for name in ("val/loss", "val/err")}]  # no choice reads the test set
    assert values["val/loss"] == pytest.approx(Totals.of(module.eval_meter("val")).loss)


def test_a_run_that_a_callback_ends_between_two_readings_has_a_last_one() -> None:
    curves, module = log(), classifier()
    train(curves, module, range(1, 5))
    rows = Rows()
    curves.on_train_epoch_end(trainer(loggers=[rows], should_stop=True), module)
    curves.on_train_epoch_end(trainer(loggers=[rows], should_stop=True), module)
    ((step, values),) = rows.rows
    assert (step, values["train/loss"]) == (4, 4.0)


def test_a_validation_that_comes_between_two_readings_makes_none() -> None:
    curves, module, rows = log(), classifier(), Rows()
    train(curves, module, range(1, 5))
    curves.on_train_epoch_end(trainer(loggers=[rows]), module)
    assert rows.rows == []


def log_stretch(directory: Path, continue_from: int, steps: range) -> None:
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
    log_stretch(tmp_path / "run", 0, range(1, 4))
    names = sorted(path.name.split(".")[0] for path in (tmp_path / "run").iterdir())
    assert names == ["events", "metrics"]
    assert events(tmp_path / "run") == read_curves(tmp_path / "run")["train/loss"] == [(1, 1.0), (2, 2.0), (3, 3.0)]


@pytest.mark.parametrize("checkpoint", [0, 4])
def test_a_continuation_has_each_point_once(tmp_path: Path, checkpoint: int) -> None:
    log_stretch(tmp_path / "run", 0, range(1, 8))
    log_stretch(tmp_path / "run", checkpoint, range(checkpoint + 1, 10))
    expected = [(step, float(step)) for step in range(1, 10)]
    assert read_curves(tmp_path / "run")["train/loss"] == expected
    assert events(tmp_path / "run") == expected


def test_a_stretch_that_left_no_checkpoint_leaves_no_events(tmp_path: Path) -> None:
    log_stretch(tmp_path / "run", 0, range(1, 8))
    log_stretch(tmp_path / "run", 0, range(1, 4))
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
