"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.errors import InputError
from depthlab.optim.spec import OptimizerSpec

if TYPE_CHECKING:
    from torch.optim import Optimizer


@register("optimizer", "sgd")
@dataclass(frozen=True)
class SGD(OptimizerSpec):
    """Stochastic gradient descent with momentum; the decay is part of the gradient, as in the paper."""

    momentum: float = key(0.9, minimum=0, below=1, help="part of the last update that is kept")
    nesterov: bool = key(False, help="Nesterov's form")

    def build(self, parameters: list[dict[str, Any]], fused: bool | None) -> Optimizer:
        import torch

        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=fused)

    def check(self) -> None:
        if self.nesterov and not self.momentum:
            raise InputError("optimizer.nesterov=true: Nesterov's form needs optimizer.momentum above 0.")
