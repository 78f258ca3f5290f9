"""Two networks side by side, one for colour and one for brightness, whose outputs add."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# Recommendation ITU-R BT.601: the weight of red, green and blue in luma.
LUMA = (0.299, 0.587, 0.114)


class RGBL(nn.Module):
    """The batch transform RGB -> RGBL: (N, 3, H, W) to (N, 4, H, W), the fourth channel being brightness.

    A grey image (N, 1, H, W) counts as three equal channels, and its brightness is itself.

    Images arrive normalised, and brightness is a sum over channels as they were before. Both of the project's
    normalisations are affine, x' = (x - mean) / deviation, so luma of the original image is still there:
    sum of LUMA * deviation * x' equals luma(x) - luma(mean). The weights are LUMA times the channels' deviations,
    scaled to the sum 1, which puts brightness on the scale of the colours. With equal deviations (per-pixel
    normalisation has 1 throughout) they are LUMA.
    """

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(LUMA))

    def set_deviations(self, deviations: Sequence[float]) -> None:
        """By what red, green and blue were divided; one number for a grey image. They stay with the weights."""
        expanded = torch.tensor(deviations, dtype=torch.float64).expand(3)
        weighted = torch.tensor(LUMA, dtype=torch.float64) * expanded
        self.weights.copy_(weighted / weighted.sum())

    def forward(self, images: Tensor) -> Tensor:
        rgb = images.expand(-1, 3, -1, -1)
        brightness = (rgb * self.weights[:, None, None]).sum(dim=1, keepdim=True)
        return torch.cat([rgb, brightness], dim=1)


class TwoStream(nn.Module):
    """A network on the three colours plus a network on brightness; each has its own batch norm and classifier.

    Args:
        build: builds a stream; is called with `in_channels` 3, then with 1.
    """

    def __init__(self, build: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.rgbl = RGBL()
        self.colour = build(in_channels=3)
        self.brightness = build(in_channels=1)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes) of images (N, 3, H, W) or (N, 1, H, W): the sum of the streams'."""
        colour, brightness = self.scores(images)
        return colour + brightness

    def scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the colour stream and the brightness stream say, each (N, num_classes)."""
        rgbl = self.rgbl(images)
        return self.colour(rgbl[:, :3]), self.brightness(rgbl[:, 3:])
