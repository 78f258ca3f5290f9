"""One rate."""

from __future__ import annotations

from dataclasses import dataclass

from depthlab.config.registry import register
from depthlab.optim.schedules import constant
from depthlab.optim.spec import ScheduleSpec, Shape


@register("schedule", "constant")
@dataclass(frozen=True)
class Constant(ScheduleSpec):
    """One rate throughout, after the warm-up."""

    def shape(self, max_steps: int) -> Shape:
        return constant()
