"""Focal loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.tasks.spec import CLASSES, LossSpec

if TYPE_CHECKING:
    from torch import Tensor


@register("loss", "focal")
@dataclass(frozen=True)
class Focal(LossSpec):
    """Cross-entropy times (1 - p)^gamma, p the probability of the right class (Lin et al. 2017, equation 4)."""

    targets = (CLASSES,)

    gamma: float = key(2.0, minimum=0, maximum=100, help="how much certain answers count less; 0 is cross-entropy")

    def per_image(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        import torch
        from torch.nn import functional as F

        losses = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=label_smoothing)
        wrong = -torch.expm1(-F.cross_entropy(outputs, targets, reduction="none"))  # 1 - p
        # The power has no finite slope at 0 where gamma is below 1.
        return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** self.gamma * losses
