"""Digits to be restored from noise: image-sized targets without a download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import DataSpec

if TYPE_CHECKING:
    from depthlab.data.source import ImageSource


@register("data", "noisy_digits")
@dataclass(frozen=True)
class NoisyDigits(DataSpec):
    """The digits of data=digits with Gaussian noise, each with its clean image as target. For task=regression."""

    targets = "images"
    is_fixed = True

    noise: float = key(0.3, minimum=0, maximum=100, help="standard deviation of the noise, where white is 1")
    noise_seed: int = key(0, minimum=0, below=2**32, help="of the noise, which is the same in every epoch")
    val_size: int = key(137, minimum=0, help="training images set aside; 137 leave 1,300 to train on")
    batch_size: int = key(
        64, maximum=10**6, column=True, positive=True, help="images in one optimiser step, over all processes"
    )

    def read(self, data_dir: Path) -> ImageSource:
        from depthlab.data.sources import add_noise, read_digits

        return add_noise(read_digits(data_dir), self.noise, self.noise_seed)
