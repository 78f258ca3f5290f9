"""CIFAR-10."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import DataSpec

if TYPE_CHECKING:
    from depthlab.data.source import ImageSource


@register("data", "cifar10")
@dataclass(frozen=True)
class Cifar10(DataSpec):
    """CIFAR-10: 50,000 + 10,000 colour images, 32x32, 10 classes; the paper's preparation."""

    is_fixed = True

    val_size: int = key(5000, minimum=0, help="training images set aside, stratified; 0: train on all, val/* is null")
    crop_padding: int = key(
        4, maximum=1000, minimum=0, help="zeros on each side after subtraction, then a random 32x32 crop"
    )
    flip: bool = key(True, help="mirror half of the training images")

    def read(self, data_dir: Path) -> ImageSource:
        from depthlab.data.sources import read_cifar10

        return read_cifar10(data_dir)
