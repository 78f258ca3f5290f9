"""Huber loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.tasks.spec import IMAGES, NUMBERS, LossSpec

if TYPE_CHECKING:
    from torch import Tensor


@register("loss", "huber")
@dataclass(frozen=True)
class Huber(LossSpec):
    """Squared for small errors, linear beyond `delta` (Huber 1964)."""

    targets = (NUMBERS, IMAGES)

    delta: float = key(1.0, positive=True, help="where the loss turns linear")

    def per_image(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        from torch.nn import functional as F

        return F.huber_loss(outputs, targets, reduction="none", delta=self.delta).flatten(1).mean(dim=1)
