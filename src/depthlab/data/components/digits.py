"""The digits inside scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import DataSpec

if TYPE_CHECKING:
    from depthlab.data.source import ImageSource


@register("data", "digits")
@dataclass(frozen=True)
class Digits(DataSpec):
    """The 1,797 handwritten digits inside scikit-learn, 8x8 grey: real images, no download, seconds to train.

    They have no official test split: 360 stratified images, by a fixed seed, are it.
    """

    is_fixed = True

    val_size: int = key(137, minimum=0, help="training images set aside; 137 leave 1,300 to train on")
    batch_size: int = key(
        64, maximum=10**6, column=True, positive=True, help="images in one optimiser step, over all processes"
    )

    def read(self, data_dir: Path) -> ImageSource:
        from depthlab.data.sources import read_digits

        return read_digits(data_dir)
