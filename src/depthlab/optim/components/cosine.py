"""Half a cosine."""

from __future__ import annotations

from dataclasses import dataclass

from depthlab.config.registry import register
from depthlab.optim.schedules import half_cosine
from depthlab.optim.spec import ScheduleSpec, Shape


@register("schedule", "cosine")
@dataclass(frozen=True)
class Cosine(ScheduleSpec):
    """Half a cosine from the full rate to 0 at trainer.max_steps."""

    def shape(self, max_steps: int) -> Shape:
        return half_cosine(self.warmup_steps, max_steps)
