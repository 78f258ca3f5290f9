"""A schedule: up, then down."""

from __future__ import annotations

from dataclasses import dataclass

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.optim.spec import ScheduleSpec, Shape


@register("schedule", "triangle")
@dataclass(frozen=True)
class Triangle(ScheduleSpec):
    """Rises to the full rate at a part of the run, then falls to 0 (Smith 2017)."""

    peak_at: float = key(0.5, minimum=0.05, maximum=0.95, help="where the full rate is, as a part of the run")

    def shape(self, max_steps: int) -> Shape:
        peak = self.peak_at * max_steps
        return lambda step: (step + 1) / (peak + 1) if step < peak else (max_steps - step) / (max_steps - peak)
