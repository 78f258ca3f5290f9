"""torchvision's DenseNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.models.spec import SHARED, ModelSpec, check_sizes

if TYPE_CHECKING:
    from torch import nn


@register("model", "densenet")
@dataclass(frozen=True)
class DenseNet(ModelSpec):
    """torchvision's DenseNet (Huang et al. 2017)."""

    supports = frozenset(SHARED) - {"stochastic_depth"}

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "densenet121": {},  # torchvision's, 8.0 M parameters with 1000 classes; images from 32x32 on
        # DenseNet-BC of 100 layers with growth rate 12, for 32x32 images, 0.8 M parameters.
        "densenet_bc100_12": {
            "growth_rate": 12,
            "block_config": [16, 16, 16],
            "num_init_features": 24,
            "stem": "small",
        },
    }

    growth_rate: int = key(32, maximum=10_000, positive=True, help="channels that each layer adds")
    block_config: list[int] = key((6, 12, 24, 16), maximum=1000, help="layers in each dense block")
    num_init_features: int = key(64, maximum=10_000, positive=True, help="channels after the stem")
    bn_size: int = key(4, maximum=10_000, positive=True, help="channels of a layer's 1x1 convolution, in growth rates")
    stem: str = key(
        "imagenet", choices=("small", "imagenet"), help="small: a 3x3 convolution, for images below about 64x64"
    )

    def network(self) -> Callable[..., nn.Module]:
        from depthlab.models.densely_connected import DenseNet as Network

        return Network

    def true_names(self) -> tuple[str, ...]:
        num_layers = 2 * sum(self.block_config) + len(self.block_config) + 1
        names = f"densenet{num_layers}", f"densenet_bc{num_layers}_{self.growth_rate}"
        return names if self.stem == "imagenet" else names[::-1]  # that paper's name for the networks on 32x32 images

    def stage_names(self) -> list[str]:
        return [f"denseblock{idx}" for idx in range(1, len(self.block_config) + 1)]

    def check(self) -> None:
        check_sizes("block_config", self.block_config)
        super().check()
