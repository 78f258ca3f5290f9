"""A network with keys of its own: patches mixed by fully connected layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn


@register("model", "mixer")
@dataclass(frozen=True)
class Mixer(ModelSpec):
    """Patches mixed by fully connected layers (Tolstikhin et al. 2021)."""

    presets: ClassVar = {"mixer_deep": {"depth": 12}}

    patch: int = key(4, positive=True, help="pixels a side of a patch")
    depth: int = key(2, positive=True, help="mixing layers")
    width: int = key(16, positive=True, help="features of a patch")

    def network(self) -> Callable[..., nn.Module]:
        from mylab.mixer_net import MixerNet

        return MixerNet

    def true_names(self) -> tuple[str, ...]:
        return (f"mixer{self.depth}_p{self.patch}",)
