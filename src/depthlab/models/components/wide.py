"""Wide residual networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.models.spec import SHARED, ModelSpec, check_depth

if TYPE_CHECKING:
    from torch import nn


@register("model", "wide")
@dataclass(frozen=True)
class WideNet(ModelSpec):
    """A wide residual network (Zagoruyko and Komodakis 2016)."""

    supports = frozenset(SHARED)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Zagoruyko and Komodakis 2016, for 32x32 images: 2.7, 8.9 and 36.5 M parameters.
        "wide_resnet16_4": {"depth": 16, "width_factor": 4},
        "wide_resnet40_4": {"depth": 40, "width_factor": 4},
        "wide_resnet28_10": {"depth": 28, "width_factor": 10},
    }

    depth: int = key(maximum=5000, column=True, help="6n+4, as that paper counts")
    width_factor: int = key(maximum=1000, help="how many times as wide as 16, 32 and 64 channels", positive=True)

    def network(self) -> Callable[..., nn.Module]:
        from depthlab.models.resnet import wide_net

        return wide_net

    def true_names(self) -> tuple[str, ...]:
        return (f"wide_resnet{self.depth}_{self.width_factor}",)

    def stage_names(self) -> list[str]:
        return [f"layer{idx}" for idx in range(1, 4)]

    @property
    def shape(self) -> dict[str, Any]:
        """See `ModelSpec`: these networks are always residual."""
        return {"depth": self.depth, "residual": True}

    def check(self) -> None:
        check_depth(self.depth, 6, 4)
        super().check()
