"""A loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.tasks.spec import LossSpec

if TYPE_CHECKING:
    from torch import Tensor


@register("loss", "poly1")
@dataclass(frozen=True)
class Poly1(LossSpec):
    """Cross-entropy plus epsilon (1 - p), p the probability of the right class (Leng et al. 2022)."""

    epsilon: float = key(1.0, minimum=0, help="weight of the linear term; 0 is cross-entropy")

    def per_image(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        from torch.nn import functional as F

        losses = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=label_smoothing)
        probability = outputs.softmax(dim=1).gather(1, targets[:, None])[:, 0]
        return losses + self.epsilon * (1 - probability)
