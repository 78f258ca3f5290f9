"""A data set from numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import DataSpec

if TYPE_CHECKING:
    from depthlab.data.source import ImageSource


@register("data", "stripes")
@dataclass(frozen=True)
class Stripes(DataSpec):
    """Noisy stripes: upright, level, or none."""

    num_images: int = key(240, positive=True, help="training images")
    size: int = key(8, positive=True, help="pixels a side")
    batch_size: int = key(24, positive=True, help="images in one optimiser step, over all processes")
    val_size: int = key(24, minimum=0, help="training images set aside")

    def read(self, data_dir: Path) -> ImageSource:
        from depthlab.data.source import ImageSource

        random = np.random.RandomState(0)
        splits = [self._draw(random, count) for count in (self.num_images, 60)]
        return ImageSource.from_arrays(*splits, classes=["upright", "level", "none"])

    def _draw(self, random: np.random.RandomState, count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 3
        images = random.randint(0, 120, (count, self.size, self.size, 1)).astype(np.uint8)
        images[labels == 0, :, ::2] += 100
        images[labels == 1, ::2] += 100
        return images, labels
