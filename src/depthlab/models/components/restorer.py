"""Plain and residual networks from images to images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.models.spec import ModelSpec, check_depth

if TYPE_CHECKING:
    from torch import nn


@register("model", "restorer")
@dataclass(frozen=True)
class RestorerSpec(ModelSpec):
    """A plain or residual stack of 3x3 convolutions at full resolution, for targets that are images."""

    supports = frozenset({"freeze"})
    output = "images"

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "plain_restorer20": {"depth": 20, "residual": False},  # 2n+2, n = 9
        "residual_restorer20": {"depth": 20},  # its twin: the same parameters
    }

    depth: int = key(maximum=5000, column=True, help="weighted layers: 2n+2")
    width: int = key(16, positive=True, maximum=10_000, column=True, help="channels of every layer but the last")
    residual: bool = key(
        True, column=True, help="whether blocks add their input to their output: the experiment's one switch"
    )

    def network(self) -> Callable[..., nn.Module]:
        from depthlab.models.restorer import Restorer

        return Restorer

    def true_names(self) -> tuple[str, ...]:
        return (f"{'residual' if self.residual else 'plain'}_restorer{self.depth}",)

    def stage_names(self) -> list[str]:
        return ["layer1"]

    def check(self) -> None:
        check_depth(self.depth, 2, 2)
        super().check()
