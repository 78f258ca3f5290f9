"""The baseline without convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.models.spec import ModelSpec, check_sizes

if TYPE_CHECKING:
    from torch import nn


@register("model", "dense")
@dataclass(frozen=True)
class Dense(ModelSpec):
    """Fully connected layers with ReLU."""

    supports = frozenset({"dropout", "freeze", "two_stream"})

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "two_stream_dense": {"two_stream": True},  # colour and brightness: 422,996 parameters on 28x28 images
    }

    widths: list[int] = key((128, 64, 32), maximum=1_000_000, help="features of each hidden layer")

    def network(self) -> Callable[..., nn.Module]:
        from depthlab.models.fully_connected import Dense as Network

        return Network

    def stage_names(self) -> list[str]:
        return [f"layer{idx}" for idx in range(1, len(self.widths) + 1)]

    def check(self) -> None:
        check_sizes("widths", self.widths)
        super().check()
