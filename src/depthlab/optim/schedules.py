"""The learning rate as one closed-form function of the step: nothing to restore, nothing to chain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Shape = Callable[[int], float]


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each optimiser step, counted from 0.

    Args:
        peak: the full rate.
        shape: the part of `peak` at a step, warm-up aside.
        warmup_steps: steps before the full rate.
        warmup_factor: the part of `peak` at step 0.
        warmup_shape: "constant" keeps that part until the warm-up ends, "linear" rises to 1.
    """

    peak: float
    shape: Shape
    warmup_steps: int = 0
    warmup_factor: float = 0.1
    warmup_shape: str = "linear"

    def __call__(self, step: int) -> float:
        """The rate that update number `step` uses."""
        if step >= self.warmup_steps:
            return self.peak * self.shape(step)
        if self.warmup_shape == "constant":
            return self.peak * self.warmup_factor
        rise = (1 - self.warmup_factor) * step / self.warmup_steps
        return self.peak * (self.warmup_factor + rise)


def steps_down(milestones: list[int], factor: float) -> Shape:
    """`factor` to the power of the number of milestones reached."""
    return lambda step: factor ** sum(step >= milestone for milestone in milestones)


def half_cosine(first_step: int, last_step: int) -> Shape:
    """From 1 at `first_step` to 0 at `last_step` along half a cosine (Loshchilov and Hutter 2017, equation 5)."""
    span = max(1, last_step - first_step)
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, (step - first_step) / span)))


def constant() -> Shape:
    """1 throughout."""
    return lambda step: 1.0


def scaled(milestones: list[int], total_steps: int, max_steps: int) -> list[int]:
    """Milestones written for `total_steps`, at the same parts of `max_steps`."""
    return [round(milestone * max_steps / total_steps) for milestone in milestones]
