"""The network of `mylab.mixer`."""

from __future__ import annotations

from torch import Tensor, nn


class MixerLayer(nn.Module):
    """Mixes the patches of each feature, then the features of each patch."""

    def __init__(self, num_patches: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.LayerNorm(num_patches), nn.Linear(num_patches, num_patches), nn.GELU())
        self.features = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.patches(x)
        return x + self.features(x.transpose(1, 2)).transpose(1, 2)


class MixerNet(nn.Module):
    """Images (N, C, H, W), cut into square patches, to outputs (N, num_classes)."""

    def __init__(
        self, in_channels: int, num_classes: int, image_size: tuple[int, int], patch: int, depth: int, width: int
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, width, patch, patch)
        num_patches = (image_size[0] // patch) * (image_size[1] // patch)
        self.layers = nn.Sequential(*(MixerLayer(num_patches, width) for _ in range(depth)))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        mixed = self.layers(self.embed(images).flatten(2))
        scores: Tensor = self.classifier(mixed.mean(dim=2))
        return scores
