"""When a checkpoint is written, and when a run stops after one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from depthlab.training.callbacks import checkpointing as saving
from depthlab.training.callbacks.checkpointing import STOP_SIGNALS, Checkpoints, StopRequest
from depthlab.training.endings import Interrupted

from .small import classifier, plan, trainer


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
