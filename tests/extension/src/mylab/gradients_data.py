"""A data set from torch Datasets, with numbers as targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import DataSpec

if TYPE_CHECKING:
    from depthlab.data.source import ImageSource


@register("data", "brightness_ramps")
@dataclass(frozen=True)
class BrightnessRamps(DataSpec):
    """Ramps of brightness, whose slope is to be predicted."""

    targets = "numbers"

    steepest: float = key(1.0, positive=True, maximum=1, help="largest slope across the image")
    batch_size: int = key(16, positive=True, help="images in one optimiser step, over all processes")
    val_size: int = key(16, minimum=0, help="training images set aside")

    def read(self, data_dir: Path) -> ImageSource:
        from depthlab.data.source import ImageSource

        return ImageSource.from_dataset(_ramps(96, 1, self.steepest), _ramps(32, 2, self.steepest))


def _ramps(count: int, seed: int, steepest: float) -> Any:
    import torch
    from torch.utils.data import TensorDataset

    generator = torch.Generator().manual_seed(seed)
    slopes = torch.rand(count, generator=generator) * steepest
    rows = torch.linspace(0, 1, 8)[None, :] * slopes[:, None]
    return TensorDataset(rows[:, None, :, None].expand(-1, 1, 8, 8).contiguous(), slopes)
