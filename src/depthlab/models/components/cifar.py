"""The plain and residual networks of section 4.2 of the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.models.spec import SHARED, ModelSpec, check_depth, check_plain

if TYPE_CHECKING:
    from torch import nn


DEPTHS = (20, 32, 44, 56, 110, 1202)  # 6n+2: those of the paper's Table 6
PREACTIVATED_BOTTLENECKS = {"shortcut": "B", "block": "bottleneck", "preactivation": True}


@register("model", "cifar")
@dataclass(frozen=True)
class CifarNet(ModelSpec):
    """A plain or residual network of section 4.2 of the paper, or its form with bottlenecks or pre-activation."""

    supports = frozenset(SHARED)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{f"plain{depth}": {"depth": depth, "residual": False} for depth in DEPTHS},
        **{f"resnet{depth}": {"depth": depth} for depth in DEPTHS},  # the twins: the same parameters
        # He et al. 2016, "Identity mappings in deep residual networks": 1.7, 1.7 and 10.3 M parameters.
        "preact_resnet110": {"depth": 110, "preactivation": True},
        "preact_resnet164": {"depth": 164, **PREACTIVATED_BOTTLENECKS},
        "preact_resnet1001": {"depth": 1001, **PREACTIVATED_BOTTLENECKS},
    }

    depth: int = key(maximum=5000, column=True, help="weighted layers: 6n+2, with bottlenecks 9n+2")
    residual: bool = key(
        True, column=True, help="whether blocks add their input to their output: the experiment's one switch"
    )
    shortcut: str = key(
        "A",
        column=True,
        choices=("A", "B", "C"),
        help="A: identity, zero channels; B: 1x1 projections where the shape changes; C: everywhere",
    )
    block: str = key("basic", identity_default="basic", choices=("basic", "bottleneck"), help="kind of block")
    preactivation: bool = key(
        False, identity_default=False, help="batch norm and ReLU before each convolution (He et al. 2016)"
    )

    def network(self) -> Callable[..., nn.Module]:
        from depthlab.models.resnet import cifar_net

        return cifar_net

    def true_names(self) -> tuple[str, ...]:
        kind = "resnet" if self.residual else "plain"
        return (f"{'preact_' if self.preactivation else ''}{kind}{self.depth}",)

    def stage_names(self) -> list[str]:
        return [f"layer{idx}" for idx in range(1, 4)]

    def check(self) -> None:
        check_depth(self.depth, 9 if self.block == "bottleneck" else 6, 2)
        check_plain(self.residual, self.shortcut, self.stochastic_depth, self.name)
        super().check()
