"""When a checkpoint is written, when a run stops after one, and that it holds all that a continuation needs."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from depthlab.training.callbacks import checkpointing as saving
from depthlab.training.callbacks.checkpointing import STOP_SIGNALS, Checkpoints, StopRequest
from depthlab.training.endings import Interrupted
from depthlab.training.module import SupervisedModule
from depthlab.training.resume_state import RestoreState, capture

from .small import batch, classifier, plan, trainer


class Clock:
    """A clock that a test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(saving.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def drive(
    at_step: Callable[[int], None] = lambda step: None,
    first_step: int = 0,
    stop: StopRequest | None = None,
    world: Any = None,
    batches_per_step: int = 1,
    **settings: Any,
) -> list[int | str]:
    """What a run of 12 steps does with its callback, in order: the step of each checkpoint, "val", "end", "stop"."""
    happened: list[int | str] = []
    planned = plan(first_step=first_step, batches_per_step=batches_per_step, **settings)
    callback = Checkpoints(lambda _, module: happened.append(module.step), planned, stop or StopRequest())
    module, fake = classifier(), world or trainer()
    module.step = first_step
    callback.on_train_start(fake, module)
    try:
        while not fake.should_stop:
            for batch_idx in range(batches_per_step):
                is_update = batch_idx == batches_per_step - 1
                module.step += is_update
                if is_update:
                    at_step(module.step)
                callback.on_train_batch_end(fake, module, None, None, batch_idx)
            if planned.validates_at(module.step):
                happened.append("val")
                callback.on_train_epoch_end(fake, module)
        callback.on_train_end(fake, module)
        happened.append("end")
    except Interrupted:
        happened.append("stop")
    return happened


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["val", "val", 12, "end"]),
        ({"save_every_steps": 4}, [4, "val", 8, "val", 12, "end"]),
        ({"save_every_steps": 6}, ["val", 6, "val", 12, "end"]),  # where both are due, validation comes first
        ({"save_every_steps": 5, "val_every_steps": 5}, ["val", 5, "val", 10, "val", 12, "end"]),
        ({"save_every_steps": 100, "val_every_steps": 100}, ["val", 12, "end"]),
        ({"save_every_steps": 4, "first_step": 4}, ["val", 8, "val", 12, "end"]),  # nothing new at the step it began
        ({"save_every_steps": 4, "batches_per_step": 3}, [4, "val", 8, "val", 12, "end"]),  # once per update
    ],
    ids=str,
)
def test_checkpoints_come_by_step_and_at_the_end(settings: dict[str, Any], expected: list[int | str]) -> None:
    assert drive(**settings) == expected


def test_checkpoints_come_by_time_counted_from_the_last_one(clock: Clock) -> None:
    def a_minute_passes(step: int) -> None:
        clock.now += 60

    assert drive(a_minute_passes, save_every_seconds=300) == [5, "val", 10, "val", 12, "end"]
    both = drive(a_minute_passes, save_every_seconds=180, save_every_steps=4)
    assert both == [3, 4, "val", 7, 8, 11, "val", 12, "end"]
    assert drive(a_minute_passes, save_every_seconds=90) == [2, 4, "val", 6, 8, 10, "val", 12, "end"]


@pytest.mark.parametrize(
    ("asked_at", "expected"), [(3, [3, "stop"]), (6, ["val", 6, "stop"]), (12, ["val", "val", 12, "stop"])]
)
def test_a_stop_request_is_answered_with_a_checkpoint(asked_at: int, expected: list[int | str]) -> None:
    stop = StopRequest()

    def ask(step: int) -> None:
        stop.is_made = step >= asked_at

    assert drive(ask, stop=stop) == expected


def test_several_processes_agree_at_their_common_steps(clock: Clock) -> None:
    questions: list[bool] = []

    def any_process(mine: bool, all: bool) -> bool:
        assert not all
        questions.append(mine)
        return len(questions) == 3  # another process was asked to stop before the second agreement

    world = trainer(world_size=2, strategy=SimpleNamespace(reduce_boolean_decision=any_process))
    assert drive(world=world, log_every_steps=4, save_every_steps=5) == [5, "val", 8, "stop"]
    assert questions == [False] * 4


def test_several_processes_agree_again_after_the_last_step() -> None:
    stop = StopRequest()
    world = trainer(world_size=2, strategy=SimpleNamespace(reduce_boolean_decision=lambda mine, all: mine))

    def ask(step: int) -> None:
        stop.is_made = step >= 9

    assert drive(ask, stop=stop, world=world, log_every_steps=8) == ["val", "val", 12, "stop"]


def test_several_processes_do_not_act_on_their_own_clock_or_signal(clock: Clock) -> None:
    stop = StopRequest()
    world = trainer(world_size=2, strategy=SimpleNamespace(reduce_boolean_decision=lambda mine, all: mine))

    def ask(step: int) -> None:
        clock.now += 60
        stop.is_made = step >= 5

    assert drive(ask, stop=stop, world=world, log_every_steps=4, save_every_seconds=180) == [4, "val", 8, "stop"]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_asks_for_a_stop_and_its_handler_comes_back(number: int) -> None:
    stop, before = StopRequest(), signal.getsignal(number)
    with stop.listening():
        assert not stop.is_made
        os.kill(os.getpid(), number)
        assert stop.is_made
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "is_told"), [(signal.SIGUSR2, True), (signal.SIGUSR1, False)])
def test_who_queues_the_job_again_is_told_after_the_checkpoint(number: int, is_told: bool) -> None:
    happened: list[str] = []
    before = signal.signal(number, lambda *_: happened.append("queued again"))
    try:
        with StopRequest().listening():
            os.kill(os.getpid(), number)
            happened.append("checkpoint")
    finally:
        signal.signal(number, before)
    assert happened == ["checkpoint", *(["queued again"] if is_told else [])]


@pytest.mark.parametrize("first", STOP_SIGNALS)
def test_a_second_ctrl_c_stops_at_once(first: int) -> None:
    stop, before = StopRequest(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop.listening():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGUSR1])
def test_other_signals_may_come_twice(second: int) -> None:
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), second)
    assert stop.is_made


class LossScale:
    """Stands in for a precision plugin."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def made(module: SupervisedModule, **attributes: Any) -> Trainer:
    """A trainer that has made the module's optimiser."""
    return trainer(optimizers=[module.configure_optimizers()], precision_plugin=LossScale(2.0), **attributes)


def train(module: SupervisedModule, fit: Trainer, steps: range) -> None:
    """Steps that also take from the random state, as dropout would."""
    for seed in steps:
        optimizer = fit.optimizers[0]
        optimizer.zero_grad()
        data = batch(seed=seed)
        module.training_step(data._replace(images=data.images + torch.randn(data.images.shape)), 0).backward()
        module.optimizer_step(0, 0, optimizer, None)


@pytest.fixture
def halfway() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The states after 3 steps and after 6, and nothing else shared."""
    module = classifier(momentum=0.9)
    fit = made(module)
    torch.manual_seed(5)
    train(module, fit, range(3))
    fit.precision_plugin.scale = 4.0  # type: ignore[attr-defined]
    log_state = {"last_epoch": [1.0, 2.0, 3.0]}
    captured = copy.deepcopy(capture(fit, module, log_state))
    train(module, fit, range(3, 6))
    return captured, capture(fit, module, log_state), log_state


def test_a_continuation_from_a_captured_state_ends_in_the_same_state(halfway: tuple[dict[str, Any], ...]) -> None:
    captured, expected, log_state = halfway
    module = classifier(momentum=0.9, seed=1)
    module.network.load_state_dict(captured["network"])
    module.step = captured["step"]
    fit = made(module)
    torch.manual_seed(99)
    RestoreState(captured, 1).on_train_start(fit, module)
    assert fit.precision_plugin.scale == 4.0  # type: ignore[attr-defined]
    train(module, fit, range(3, 6))
    state = capture(fit, module, log_state)
    assert torch.equal(state["random"], expected["random"])
    for name, value in expected["network"].items():
        assert torch.equal(state["network"][name], value)
    assert state["train_totals"] == expected["train_totals"]
    assert state["step"] == expected["step"] == 6
    buffers, wanted = (s["optimizer"]["state"] for s in (state, expected))
    assert all(torch.equal(buffers[key]["momentum_buffer"], wanted[key]["momentum_buffer"]) for key in wanted)


def test_a_state_is_tensors_and_plain_data(halfway: tuple[dict[str, Any], ...], tmp_path: Any) -> None:
    torch.save(halfway[0], tmp_path / "state")
    loaded = torch.load(tmp_path / "state", weights_only=True)
    assert loaded.keys() == halfway[0].keys() >= {"step", "network", "optimizer", "precision", "random", "log"}


@pytest.mark.parametrize(("is_first", "num_images"), [(True, 18), (False, 0)])
def test_sums_of_all_processes_come_back_once(
    halfway: tuple[dict[str, Any], ...], is_first: bool, num_images: int
) -> None:
    module = classifier(momentum=0.9)
    RestoreState(halfway[0], 1).on_train_start(made(module, is_global_zero=is_first), module)
    assert int(module.train_meter.num_images) == num_images


def test_no_loss_scale_is_restored_where_none_was_saved(halfway: tuple[dict[str, Any], ...]) -> None:
    module = classifier(momentum=0.9)
    state = {**halfway[0], "precision": {}}
    fit = made(module)
    fit.precision_plugin = SimpleNamespace()  # type: ignore[assignment]
    RestoreState(state, 1).on_train_start(fit, module)
    assert int(module.train_meter.num_images) == 18
