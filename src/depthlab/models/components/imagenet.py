"""The networks of Table 1 of the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.errors import InputError
from depthlab.models.spec import SHARED, ModelSpec, check_plain

if TYPE_CHECKING:
    from torch import nn

DEPTHS = (18, 34, 50, 101, 152)


@register("model", "imagenet")
@dataclass(frozen=True)
class ImageNetNet(ModelSpec):
    """A network of Table 1 of the paper, with torchvision's names and variants: with option B, torchvision's own."""

    supports = frozenset(SHARED)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Table 1 of the paper; with option A, resnet18 and resnet34 have the parameters of their plain twins.
        **{f"plain{depth}": {"depth": depth, "residual": False, "shortcut": "A"} for depth in (18, 34)},
        # 11.7, 21.8, 25.6, 44.5 and 60.2 M parameters with 1000 classes, as torchvision's.
        **{f"resnet{depth}": {"depth": depth} for depth in (18, 34, 50, 101, 152)},
        **{f"preact_resnet{depth}": {"depth": depth, "preactivation": True} for depth in (18, 50)},  # He et al. 2016
        "resnext50_32x4d": {"depth": 50, "groups": 32, "width_per_group": 4},  # Xie et al. 2017, 25.0 M
        "wide_resnet50_2": {"depth": 50, "width_per_group": 128},  # twice the channels inside bottlenecks, 68.9 M
        # A ResNet-18 for colour and one for brightness, whose outputs add: 22.4 M parameters with 10 classes.
        "two_stream_resnet18": {"depth": 18, "two_stream": True},
    }

    depth: int = key(maximum=5000, column=True, help="18, 34, 50, 101 or 152")
    residual: bool = key(True, column=True, help="whether blocks add their input to their output")
    shortcut: str = key(
        "B",
        column=True,
        choices=("A", "B", "C"),
        help="A: identity, zero channels; B: 1x1 projections where the shape changes; C: everywhere",
    )
    preactivation: bool = key(
        False, identity_default=False, help="batch norm and ReLU before each convolution (He et al. 2016)"
    )
    stem: str = key(
        "imagenet", choices=("small", "imagenet"), help="small: a 3x3 convolution, for images below about 64x64"
    )
    groups: int = key(1, maximum=100_000, positive=True, help="of the bottlenecks' 3x3 convolutions")
    width_per_group: int = key(64, maximum=100_000, positive=True, help="channels of a group in the first stage")

    def network(self) -> Callable[..., nn.Module]:
        from depthlab.models.resnet import imagenet_net

        return imagenet_net

    def true_names(self) -> tuple[str, ...]:
        kind, depth = "resnet" if self.residual else "plain", str(self.depth)
        if self.groups > 1:
            kind, depth = ("resnext" if self.residual else "plainx"), f"{depth}_{self.groups}x{self.width_per_group}d"
        elif self.width_per_group != 64:
            kind, depth = f"wide_{kind}", f"{depth}_{self.width_per_group / 64:g}"
        return (f"{'preact_' if self.preactivation else ''}{kind}{depth}",)

    def stage_names(self) -> list[str]:
        return [f"layer{idx}" for idx in range(1, 5)]

    def check(self) -> None:
        if self.depth not in DEPTHS:
            raise InputError(f"model.depth={self.depth}: the depths are {', '.join(map(str, DEPTHS))}.")
        if self.depth < 50 and (self.groups, self.width_per_group) != (1, 64):
            raise InputError(
                f"model.groups={self.groups}, model.width_per_group={self.width_per_group}: "
                "these are of bottleneck blocks, which networks have from depth 50 on."
            )
        check_plain(self.residual, self.shortcut, self.stochastic_depth, self.name)
        super().check()
