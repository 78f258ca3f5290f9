"""Stock Lightning callbacks in a run: what they do to it, what the record says, what a continuation equals."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable as Function
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
)

from depthlab.config import hydra_options
from depthlab.config.registry import groups, register
from depthlab.errors import InputError
from depthlab.records.checkpoints import checkpoint_path, list_checkpoints, load_checkpoint
from depthlab.records.curve_file import read_curves
from depthlab.records.record import read_record
from depthlab.runs import build
from depthlab.runs.evaluate import evaluate_run
from depthlab.runs.run import run
from depthlab.training.module import SupervisedModule
from depthlab.training.spec import CallbackSpec

from ..conftest import Compose, Uninterrupted, slowly
from ..whole_runs import SMALL, forget_the_end, results, same_weights, set_status, stop_after

# The second validation, at step 6, improves on nothing.
STOPPING = (
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=1",
    "callbacks.early_stopping.min_delta=1000",
    "trainer.val_every_steps=3",
)


def fail_to_train(*args: Any, **kwargs: Any) -> None:
    pytest.fail("trained again")


def test_early_stopping_leaves_a_true_record(compose_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(compose_config(*SMALL, *STOPPING), "")
    record, curves = read_record(outcome.directory), read_curves(outcome.directory)
    assert (outcome.status, record["status"], record["steps"]) == ("finished", "finished", 6)
    best = curves["val/err"][0][1]
    reason = f"EarlyStopping: val/err did not improve on {best:.6g} in 1 validations"
    assert record["stopped_early"] == {"step": 6, "reason": reason}
    assert list_checkpoints(outcome.directory)[0] == checkpoint_path(outcome.directory, 6)
    assert curves["train/loss"][-1][0] == curves["val/err"][-1][0] == 6
    assert evaluate_run(outcome.directory)["test/err"] == record["metrics"]["test/err"]
    monkeypatch.setattr(Trainer, "fit", fail_to_train)
    assert "already finished" in run(compose_config(*SMALL, *STOPPING), "").line


def test_a_run_that_stopped_early_and_was_killed_before_its_record_is_only_tested(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = run(compose_config(*SMALL, *STOPPING), "").directory
    before, expected = read_record(directory), results(directory)
    set_status(directory, "running")
    monkeypatch.setattr(Trainer, "fit", fail_to_train)
    assert run(compose_config(*SMALL, *STOPPING), "").status == "finished"
    after = read_record(directory)
    assert results(directory) == expected
    assert (after["steps"], after["stopped_early"]) == (before["steps"], before["stopped_early"])


@pytest.mark.parametrize("stop_at", [3, *slowly(2, 5)])
def test_early_stopping_goes_on_where_it_was(
    compose_config: Compose, uninterrupted: Uninterrupted, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    overrides = (*SMALL, *STOPPING, "checkpoint.every_steps=2")
    whole = uninterrupted(*overrides)
    with monkeypatch.context() as patch:
        stop_after(patch, stop_at)
        assert run(compose_config(*overrides, "name=cut"), "").status == "interrupted"
    cut = run(compose_config(*overrides, "name=cut"), "").directory
    assert same_weights(whole, cut)
    assert results(whole) == results(cut)
    assert read_record(whole)["stopped_early"] == read_record(cut)["stopped_early"]
    expected, state = (load_checkpoint(list_checkpoints(directory)[0])["callbacks"] for directory in (whole, cut))
    assert repr(state) == repr(expected)  # with the epoch at which it stopped


def test_early_stopping_cannot_read_the_test_set(compose_config: Compose) -> None:
    with pytest.raises(Exception, match="no choice reads the test set"):
        compose_config(*SMALL, "callbacks=early_stopping", "callbacks.early_stopping.monitor=test/err")
    config = compose_config(*SMALL, "callbacks=early_stopping", "data.test_curve=true", "data.val_size=0")
    with pytest.raises(InputError, match="'val/err' cannot be monitored: there are no validation images"):
        run(config, "")


def test_a_metric_that_does_not_exist_is_refused_before_anything_is_written(
    compose_config: Compose, tmp_path: Path
) -> None:
    config = compose_config(*SMALL, "callbacks=early_stopping", "callbacks.early_stopping.monitor=val/er")
    with pytest.raises(InputError, match=r"callbacks\.early_stopping: 'val/er' cannot be .* Did you mean val/err\?"):
        run(config, "")
    assert not list(tmp_path.rglob("record.json"))


EMA = ("callbacks=ema", "callbacks.ema.decay=0.5")


def averages(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(list_checkpoints(directory)[0])["callbacks"]["WeightAverage"]["average"])


def test_averaged_weights_are_measured_beside_the_last_ones(compose_config: Compose) -> None:
    plain = run(compose_config(*SMALL, "name=plain"), "").directory
    averaged = run(compose_config(*SMALL, *EMA, "name=averaged"), "").directory
    assert averaged.name != plain.name  # it has more results
    assert same_weights(plain, averaged)
    assert results(plain) == results(averaged)
    record = read_record(averaged)
    assert record["metrics_ema"].keys() == {f"{s}/{m}" for s in ("train", "val", "test") for m in ("loss", "err")}
    assert record["metrics_ema"]["train/loss"] != record["metrics"]["train/loss"]
    assert record["weights_measured"] == "last"
    assert read_record(plain).metrics_ema is None


def test_averages_that_keep_nothing_are_the_last_weights(compose_config: Compose) -> None:
    record = read_record(run(compose_config(*SMALL, "callbacks=ema", "callbacks.ema.decay=0"), "").directory)
    assert record["metrics_ema"] == {name: record["metrics"][name] for name in record["metrics_ema"]}


class Weights:
    """Observes the network's weights after each update."""

    def __init__(self) -> None:
        self.taken: list[dict[str, torch.Tensor]] = []

    def mark(self, part: str) -> None:
        """Nothing."""

    def callbacks(self) -> list[Callback]:
        """One that takes copies."""

        def take(trainer: Trainer, module: SupervisedModule, *rest: Any) -> None:
            self.taken.append({name: value.detach().clone() for name, value in module.network.named_parameters()})

        return [LambdaCallback(on_train_batch_end=take)]


def test_averages_are_those_of_the_formula(compose_config: Compose) -> None:
    weights = Weights()
    directory = run(compose_config(*SMALL, *EMA), "", observer=weights).directory
    found = averages(directory)
    for name, value in weights.taken[0].items():
        expected = value
        for step in weights.taken[1:]:
            expected = 0.5 * expected + 0.5 * step[name]
        torch.testing.assert_close(found[f"module.{name}"], expected)


@pytest.mark.parametrize("stop_at", [7, *slowly(2, 6)])
def test_averages_go_on_where_they_were(
    compose_config: Compose, uninterrupted: Uninterrupted, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    whole = uninterrupted(*SMALL, *EMA)
    with monkeypatch.context() as patch:
        stop_after(patch, stop_at)
        run(compose_config(*SMALL, *EMA, "name=cut"), "")
    cut = run(compose_config(*SMALL, *EMA, "name=cut"), "").directory
    assert results(whole) == results(cut)
    assert read_record(whole)["metrics_ema"] == read_record(cut)["metrics_ema"]
    first, second = averages(whole), averages(cut)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
def test_averages_of_a_run_that_was_killed_before_its_record_are_measured(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL, *EMA), "").directory
    before = read_record(directory)["metrics_ema"]
    set_status(directory, "running")
    run(compose_config(*SMALL, *EMA), "")
    assert read_record(directory)["metrics_ema"] == before


MONITORED = ("callbacks=lr_monitor", "schedule=cosine", "schedule.warmup_steps=3")


def test_the_monitored_rate_has_a_column_with_the_rate_of_each_update(compose_config: Compose) -> None:
    config = compose_config(*SMALL, *MONITORED)
    directory = run(config, "").directory
    schedule = build.build_schedule(config)
    rates = read_curves(directory)["lr-SGD"]
    assert rates == [(step, schedule(step - 1)) for step in range(1, 13)]
    assert set(read_curves(directory)["lr"]) <= set(rates)


def test_a_monitored_rate_has_one_row_a_step_where_batches_are_accumulated(compose_config: Compose) -> None:
    batches = ("trainer.accumulate_grad_batches=2", "data.batch_size=32")
    directory = run(compose_config(*SMALL, *MONITORED, *batches), "").directory
    with (directory / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["lr-SGD"]]
    assert steps == list(range(1, 13))


def test_a_monitored_rate_is_no_part_of_what_a_run_is(compose_config: Compose) -> None:
    plain = run(compose_config(*SMALL, "schedule=cosine", "schedule.warmup_steps=3", "name=plain"), "").directory
    monitored = run(compose_config(*SMALL, *MONITORED, "name=monitored"), "").directory
    assert monitored.name == plain.name
    assert same_weights(plain, monitored)


@pytest.mark.parametrize("stop_at", [5, *slowly(6)])
def test_a_monitored_rate_goes_on_where_it_was(
    compose_config: Compose, uninterrupted: Uninterrupted, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    whole = uninterrupted(*SMALL, *MONITORED)
    with monkeypatch.context() as patch:
        stop_after(patch, stop_at)
        run(compose_config(*SMALL, *MONITORED, "name=cut"), "")
    cut = run(compose_config(*SMALL, *MONITORED, "name=cut"), "").directory
    assert results(whole) == results(cut)


def test_a_monitored_rate_beyond_the_checkpoint_is_logged_once(compose_config: Compose) -> None:
    overrides = (*SMALL, *MONITORED, "checkpoint.every_steps=4")
    directory = run(compose_config(*overrides), "").directory
    expected = read_curves(directory)
    forget_the_end(directory, step=8)
    run(compose_config(*overrides), "")
    assert read_curves(directory) == expected


def test_each_group_of_parameters_has_a_rate_of_its_own(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL, *MONITORED, "optimizer.backbone_lr_factor=0.1"), "").directory
    curves = read_curves(directory)
    for (step, slow), (_, fast) in zip(curves["lr-SGD/pg1"], curves["lr-SGD/pg2"], strict=True):
        assert slow == pytest.approx(0.1 * fast), step


def test_a_summary_of_the_network_is_printed(compose_config: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(compose_config(*SMALL, "callbacks=model_summary"), "")
    printed = capsys.readouterr().out
    assert "network.layer1" in printed
    assert "params" in printed.lower()
    assert outcome.status == "finished"


@pytest.fixture
def registered() -> Iterator[Function[[Function[[], Callback]], None]]:
    """Registers a callback as callbacks=mine for one test."""

    def add(build: Function[[], Callback]) -> None:
        @register("callbacks", "mine")
        @dataclass(frozen=True)
        class Mine(CallbackSpec):
            """A callback of this test's own."""

            def build(self) -> Callback:
                return build()

        hydra_options.options.cache_clear()

    yield add
    del groups()["callbacks"].components["mine"]
    hydra_options.options.cache_clear()


class Stopper(Callback):
    """Ends the run after three steps."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Count."""
        trainer.should_stop = trainer.global_step >= 3


def test_a_callback_that_stops_after_three_steps_leaves_a_true_record(compose_config: Compose, registered: Any) -> None:
    registered(Stopper)
    outcome = run(compose_config(*SMALL, "callbacks=mine", "logger.every_steps=2"), "")
    record = read_record(outcome.directory)
    assert (record["status"], record["steps"]) == ("finished", 3)
    assert record["stopped_early"] == {"step": 3, "reason": "trainer.should_stop was set (Stopper)"}
    assert "after 3 steps" in outcome.line
    assert record["stretches"][-1]["to_step"] == 3
    assert list_checkpoints(outcome.directory)[0] == checkpoint_path(outcome.directory, 3)
    assert evaluate_run(outcome.directory)["test/err"] == record["metrics"]["test/err"]
    curves = read_curves(outcome.directory)
    assert [step for step, _ in curves["train/loss"]] == [2, 3]
    assert [step for step, _ in curves["val/err"]] == [3]
    assert "already finished" in run(compose_config(*SMALL, "callbacks=mine", "logger.every_steps=2"), "").line


def test_a_callback_that_stops_counts_steps_of_the_whole_run(
    compose_config: Compose, registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(Stopper)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        run(compose_config(*SMALL, "callbacks=mine"), "")
    assert read_record(run(compose_config(*SMALL, "callbacks=mine"), "").directory)["steps"] == 3


def test_averaged_batch_norm_is_measured_and_saved_where_a_callback_stops(
    compose_config: Compose, registered: Any
) -> None:
    registered(Stopper)
    overrides = (*SMALL, "callbacks=mine", "trainer.bn_statistics=averaged", "trainer.precision=32-true")
    directory = run(compose_config(*overrides), "").directory
    assert evaluate_run(directory)["test/err"] == read_record(directory)["metrics"]["test/err"]


class Telling(Callback):
    """Logs as Lightning's users do."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """The number of the update."""
        self.log("mine/update", float(trainer.global_step))  # type: ignore[attr-defined]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Half of the validation error."""
        self.log("mine/half", trainer.callback_metrics["val/err"] / 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("per_step", [1, 2])
def test_what_a_callback_logs_has_a_column(compose_config: Compose, registered: Any, per_step: int) -> None:
    registered(Telling)
    overrides = (f"trainer.accumulate_grad_batches={per_step}", "data.batch_size=32")
    curves = read_curves(run(compose_config(*SMALL, *overrides, "callbacks=mine"), "").directory)
    assert set(curves["mine/update"]) >= {(step, float(step)) for step in range(1, 13)}
    assert dict(curves["mine/half"]) == pytest.approx({step: err / 2 for step, err in curves["val/err"]})
    assert [step for step, _ in curves["epoch"]] == [3, 6, 9, 12]  # ours, none of Lightning's


def test_what_a_callback_logs_can_be_monitored(compose_config: Compose, registered: Any) -> None:
    registered(Telling)
    stopping = ("callbacks.early_stopping.monitor=mine/half", "callbacks.early_stopping.patience=9")
    assert run(compose_config(*SMALL, "callbacks=[early_stopping,mine]", *stopping), "").status == "finished"


@pytest.mark.parametrize(
    ("build", "remedy"),
    [
        (EMAWeightAveraging, "Use callbacks=ema"),
        (lambda: StochasticWeightAveraging(0.1), "Use callbacks=ema"),
        (lambda: GradientAccumulationScheduler({0: 2}), "Use trainer.accumulate_grad_batches"),
        (lambda: OnExceptionCheckpoint("anywhere"), "Leave it out"),
        (BatchSizeFinder, "Set data.batch_size"),
        (LearningRateFinder, "hydra/sweeper=search"),
        (lambda: EarlyStopping("test/err"), "no choice reads the test set. Use val/err"),
    ],
)
def test_stock_callbacks_that_would_make_a_record_wrong_are_refused(
    compose_config: Compose, registered: Any, tmp_path: Path, build: Function[[], Callback], remedy: str
) -> None:
    registered(build)
    with pytest.raises(InputError, match=rf"^callbacks\.mine: .*{re.escape(remedy)}"):
        run(compose_config(*SMALL, "callbacks=mine"), "")
    assert not list(tmp_path.rglob("record.json"))


def test_lightnings_checkpoints_lie_in_a_folder_of_their_own(compose_config: Compose, registered: Any) -> None:
    registered(lambda: ModelCheckpoint(monitor="val/err", save_last=True))
    directory = run(compose_config(*SMALL, "callbacks=mine"), "").directory
    assert "last.ckpt" in {path.name for path in (directory / "lightning" / "checkpoints").iterdir()}
    assert list_checkpoints(directory)[0] == checkpoint_path(directory, 12)


def test_a_progress_bar_of_lightnings_replaces_ours(
    compose_config: Compose, registered: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(RichProgressBar)
    directory = run(compose_config(*SMALL, "callbacks=mine"), "").directory
    assert "Epoch" in capsys.readouterr().out
    assert (directory / "progress.json").exists()


class Halving(Callback):
    """Changes the weights when training ends."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Halve them."""
        for parameter in pl_module.parameters():
            parameter.data.mul_(0.5)


def test_weights_that_a_callback_changes_at_the_end_are_those_that_are_saved(
    compose_config: Compose, registered: Any
) -> None:
    registered(Halving)
    directory = run(compose_config(*SMALL, "callbacks=mine"), "").directory
    assert evaluate_run(directory)["test/loss"] == read_record(directory)["metrics"]["test/loss"]


class TellingAtValidations(Callback):
    """Logs where chunks of steps end."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a callback can know of the steps."""
        for logger in trainer.loggers:
            logger.log_metrics({"mine/step": trainer.global_step}, trainer.fit_loop.epoch_loop._batches_that_stepped)


def test_what_a_callback_logs_between_chunks_belongs_to_the_right_step(
    compose_config: Compose, registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depthlab.training.graph_steps.why_not_capturable", lambda *args: None)
    registered(TellingAtValidations)
    directory = run(compose_config(*SMALL, "callbacks=mine", "trainer.steps_per_replay=4"), "").directory
    assert read_curves(directory)["mine/step"] == [(6, 6.0), (12, 12.0)]


class Stateful(Callback):
    """Counts updates over every segment of a run."""

    counted = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """One more."""
        self.counted += 1

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"counted": self.counted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.counted = state_dict["counted"]


def test_the_state_of_a_callback_goes_on(
    compose_config: Compose, registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(Stateful)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        run(compose_config(*SMALL, "callbacks=mine"), "")
    directory = run(compose_config(*SMALL, "callbacks=mine"), "").directory
    assert load_checkpoint(list_checkpoints(directory)[0])["callbacks"]["Stateful"] == {"counted": 12}


class Stateless(Callback):
    """Counts, and has nothing for checkpoints."""

    def __init__(self) -> None:
        self.limit, self.counted, self.seen = 5, 0, list[int]()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """One more."""
        self.counted += 1
        self.seen.append(self.counted)


@pytest.mark.parametrize("kind", [Stateless, Stateful, Stopper])
def test_a_callback_that_saves_nothing_of_what_it_keeps_is_named_once(
    compose_config: Compose, registered: Any, capsys: pytest.CaptureFixture[str], kind: type[Callback]
) -> None:
    registered(kind)
    directory = run(compose_config(*SMALL, "callbacks=mine", "checkpoint.every_steps=1"), "").directory
    said = [line for line in capsys.readouterr().out.splitlines() if "state_dict" in line]
    expected = (
        f"{directory.name}: the callback Stateless changes counted, seen and saves no state_dict: "
        "a continued run starts with that anew"
    )
    assert said == ([expected] if kind is Stateless else [])
