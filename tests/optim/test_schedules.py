"""The learning rate at every step, against definitions written here."""

from __future__ import annotations

import math

import pytest

from depthlab.optim.schedules import Schedule, constant, half_cosine, scaled, steps_down
from depthlab.runs.build import build_schedule

from ..conftest import Compose, slowly


def trace(compose_config: Compose, *overrides: str) -> list[float]:
    """The rate of every step of a run."""
    config = compose_config("data=cifar10", *overrides)
    schedule = build_schedule(config)
    return [schedule(step) for step in range(config.trainer.max_steps)]


def paper_rate(step: int, depth: int) -> float:
    """Section 4.2: 0.1, divided by 10 at 32k and 48k; 0.01 for the first 400 steps of the deep networks."""
    if depth >= 110 and step < 400:
        return 0.01
    if step < 32_000:
        return 0.1
    return 0.01 if step < 48_000 else 0.001


@pytest.mark.parametrize("model", ["plain20", "resnet110", *slowly("resnet56", "plain1202")])
def test_he2015_is_the_papers_at_each_of_64000_steps(compose_config: Compose, model: str) -> None:
    rates = trace(compose_config, f"model={model}", "schedule=he2015", "trainer.max_steps=64000")
    assert len(rates) == 64_000
    depth = int("".join(filter(str.isdigit, model)))
    assert rates == pytest.approx([paper_rate(step, depth) for step in range(64_000)], rel=1e-12)


def test_milestones_move_with_the_length_and_the_warm_up_does_not(compose_config: Compose) -> None:
    overrides = ("model=resnet110", "trainer.max_steps=6400", "schedule.scale_to_max_steps=true")
    rates = trace(compose_config, *overrides)
    expected = [0.01] * 400 + [0.1] * 2800 + [0.01] * 1600 + [0.001] * 1600
    assert rates == pytest.approx(expected, rel=1e-12)


def test_milestones_stay_where_they_are_written_unless_asked(compose_config: Compose) -> None:
    assert set(trace(compose_config, "model=resnet20", "trainer.max_steps=1000")) == {0.1}


def test_step_divides_where_it_says(compose_config: Compose) -> None:
    overrides = ("schedule=step", "schedule.milestones=[3,5]", "schedule.factor=0.5", "trainer.max_steps=7")
    assert trace(compose_config, *overrides, "optimizer.lr=0.4") == pytest.approx([0.4] * 3 + [0.2] * 2 + [0.1] * 2)


@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_begins_at_the_full_rate_and_ends_at_zero(compose_config: Compose, warmup: int) -> None:
    overrides = ("schedule=cosine", f"schedule.warmup_steps={warmup}", "trainer.max_steps=110")
    config = compose_config(*overrides, "optimizer.lr=0.2")
    schedule = build_schedule(config)
    span = 110 - warmup
    assert schedule(warmup) == pytest.approx(0.2)
    assert schedule(warmup + span // 2) == pytest.approx(0.1)
    assert schedule(110) == pytest.approx(0.0, abs=1e-15)
    for step in range(warmup, 110):
        assert schedule(step) == pytest.approx(0.1 * (1 + math.cos(math.pi * (step - warmup) / span)))


def test_cosine_stays_at_zero_after_its_end_and_bears_a_span_of_nothing() -> None:
    assert half_cosine(0, 10)(15) == pytest.approx(0.0, abs=1e-15)
    assert half_cosine(10, 10)(10) == 1.0


def test_constant_is_constant(compose_config: Compose) -> None:
    assert set(trace(compose_config, "schedule=constant", "optimizer.lr=0.03", "trainer.max_steps=50")) == {0.03}


def test_a_linear_warm_up_rises_evenly_to_the_full_rate() -> None:
    schedule = Schedule(2.0, constant(), warmup_steps=4, warmup_factor=0.2, warmup_shape="linear")
    assert [schedule(step) for step in range(6)] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])


def test_a_constant_warm_up_keeps_its_part_and_then_ends() -> None:
    schedule = Schedule(2.0, constant(), warmup_steps=3, warmup_factor=0.1, warmup_shape="constant")
    assert [schedule(step) for step in range(5)] == pytest.approx([0.2, 0.2, 0.2, 2.0, 2.0])


def test_a_milestone_inside_the_warm_up_counts_from_its_end_on() -> None:
    schedule = Schedule(1.0, steps_down([2, 6], 0.1), warmup_steps=4, warmup_factor=0.5, warmup_shape="constant")
    assert [schedule(step) for step in range(8)] == pytest.approx([0.5] * 4 + [0.1] * 2 + [0.01] * 2)


@pytest.mark.parametrize("max_steps", [64, 440, 64_000, 100_000])
def test_scaled_milestones_lie_at_the_same_parts(max_steps: int) -> None:
    first, second = scaled([32_000, 48_000], 64_000, max_steps)
    assert (first, second) == (max_steps // 2, max_steps * 3 // 4)
