"""An augmentation with two keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import AugmentationSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@register("augment", "cutout")
@dataclass(frozen=True)
class Cutout(AugmentationSpec):
    """Sets a square of each image to zero (DeVries and Taylor 2017)."""

    size: int = key(0, identity_default=0, minimum=0, help="pixels a side; 0 is off")
    probability: float = key(1.0, identity_default=1.0, minimum=0, maximum=1, help="part of the images")

    def draw(
        self, random: Callable[[str], np.random.RandomState], num_images: int, height: int, width: int
    ) -> tuple[Any, ...]:
        places = random("places")
        top, left = places.randint(0, height, num_images), places.randint(0, width, num_images)
        return top, left, random("chosen").random_sample(num_images) < self.probability

    def apply(self, images: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
        import torch

        top, left, chosen = draws
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        in_rows = (rows >= top[:, None]) & (rows < top[:, None] + self.size)
        in_columns = (columns >= left[:, None]) & (columns < left[:, None] + self.size)
        hidden = in_rows[:, :, None] & in_columns[:, None, :] & chosen[:, None, None]
        return images.masked_fill(hidden[:, None], 0)
