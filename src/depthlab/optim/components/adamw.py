"""Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.optim.spec import OptimizerSpec

if TYPE_CHECKING:
    from torch.optim import Optimizer


@register("optimizer", "adamw")
@dataclass(frozen=True)
class AdamW(OptimizerSpec):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    lr: float = key(0.001, positive=True, below=1e30, help="peak learning rate")
    beta1: float = key(0.9, minimum=0, below=1, help="decay of the mean of gradients")
    beta2: float = key(0.999, minimum=0, below=1, help="decay of the mean of squared gradients")
    eps: float = key(1e-8, positive=True, maximum=1, help="added to the denominator")
    weight_decay: float = key(0.05, column=True, minimum=0, below=1e30, help="times rate and weights")
    decay_norm_and_bias: bool = key(False, help="false: weight decay on convolution and linear weights only")

    def build(self, parameters: list[dict[str, Any]], fused: bool | None) -> Optimizer:
        import torch

        return torch.optim.AdamW(parameters, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=fused)
