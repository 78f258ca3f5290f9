"""What every optimiser and every schedule declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlab.config.registry import define_group
from depthlab.config.spec import Spec, key
from depthlab.errors import InputError

if TYPE_CHECKING:
    from torch.optim import Optimizer

Shape = Callable[[int], float]


@define_group("optimizer", selector="name")
@dataclass(frozen=True)
class OptimizerSpec(Spec):
    """An optimiser with its full rate; the schedule says which part of it each step has."""

    lr: float = key(0.1, column=True, positive=True, below=1e30, help="peak learning rate")
    weight_decay: float = key(
        0.0001, column=True, minimum=0, below=1e30, help="times the weights, added to the gradient or apart"
    )
    decay_norm_and_bias: bool = key(True, help="false: weight decay on convolution and linear weights only")
    backbone_lr_factor: float = key(
        1.0,
        identity_default=1.0,
        positive=True,
        help="of everything but the classifier, times lr: 0.1 trains loaded weights gently",
    )

    @property
    def name(self) -> str:
        """The name under which the optimiser is registered."""
        return self.registered

    def build(self, parameters: list[dict[str, Any]], fused: bool | None) -> Optimizer:
        """The optimiser of some parameters.

        Args:
            parameters: groups as torch takes them, weight decay already in each; `lr` is set before every step.
            fused: True for one kernel over all parameters, where the optimiser has one; None lets torch choose.
        """
        raise InputError(f"optimizer.name={self.registered}: its spec has no method `build`.")


@define_group("schedule", selector="name")
@dataclass(frozen=True)
class ScheduleSpec(Spec):
    """The learning rate as a function of the step, after a warm-up."""

    warmup_steps: int = key(0, column=True, minimum=0, help="steps before the full rate")
    warmup_factor: float = key(0.1, minimum=0, below=1e30, help="the first rate, as a part of the full one")
    warmup_shape: str = key(
        "linear", choices=("constant", "linear"), help="constant: the first rate until the warm-up ends; linear: rises"
    )

    @property
    def name(self) -> str:
        """The name under which the schedule is registered."""
        return self.registered

    def shape(self, max_steps: int) -> Shape:
        """The part of the peak rate at each step, counted from 0, of a run of `max_steps`; the warm-up aside."""
        raise InputError(f"schedule.name={self.registered}: its spec has no method `shape`.")
