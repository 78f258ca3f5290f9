"""MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import DataSpec

if TYPE_CHECKING:
    from depthlab.data.source import ImageSource


@register("data", "mnist")
@dataclass(frozen=True)
class Mnist(DataSpec):
    """MNIST: 60,000 + 10,000 grey images of digits, 28x28. Digits are not mirrored; shifts of 2 pixels are harmless."""

    is_fixed = True

    val_size: int = key(5000, minimum=0, help="training images set aside, stratified; 0: train on all, val/* is null")
    crop_padding: int = key(
        2, maximum=1000, minimum=0, help="zeros on each side after subtraction, then a random 28x28 crop"
    )

    def read(self, data_dir: Path) -> ImageSource:
        from depthlab.data.sources import read_mnist

        return read_mnist(data_dir)
