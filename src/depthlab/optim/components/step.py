"""Rates that fall at milestones: the paper's, and the one in epochs of many public recipes."""

from __future__ import annotations

from dataclasses import dataclass

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.errors import InputError
from depthlab.optim.schedules import scaled, steps_down
from depthlab.optim.spec import ScheduleSpec, Shape


@register("schedule", "step")
@dataclass(frozen=True)
class Step(ScheduleSpec):
    """Division by 10 at 80 and 120 of 200 epochs of 50,000 images in batches of 128, as many public recipes do."""

    milestones: list[int] = key((31250, 46875), minimum=0, help="steps at which the rate is multiplied by factor")
    factor: float = key(0.1, positive=True, maximum=1, help="of the rate, at each milestone")
    total_steps: int = key(78125, positive=True, help="the length that the milestones are written for")
    scale_to_max_steps: bool = key(False, help="milestones move with trainer.max_steps (the warm-up does not)")

    def shape(self, max_steps: int) -> Shape:
        milestones = self.milestones
        if self.scale_to_max_steps:
            milestones = scaled(milestones, self.total_steps, max_steps)
        return steps_down(milestones, self.factor)

    def check(self) -> None:
        if sorted(self.milestones) != self.milestones:
            raise InputError(f"schedule.milestones={self.milestones}: give them in ascending order.")


@register("schedule", "he2015")
@dataclass(frozen=True)
class He2015(Step):
    """The paper's: 0.1, divided by 10 at 32k and 48k of 64k steps; 0.01 for the first 400 steps from depth 110 on."""

    milestones: list[int] = key((32000, 48000), minimum=0, help="steps at which the rate is multiplied by factor")
    total_steps: int = key(64000, positive=True, help="the length that the milestones are written for")
    warmup_steps: int = key(
        column=True,
        composed="${steps_if_deep:${oc.select:model.depth,0},110,400}",
        minimum=0,
        help="steps before the full rate",
    )
    warmup_shape: str = key(
        "constant",
        choices=("constant", "linear"),
        help="linear: rises; constant: the first rate until its end",
    )
