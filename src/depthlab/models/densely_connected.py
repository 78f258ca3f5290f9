"""DenseNet from torchvision, for images of any size: imported only where one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torchvision.models
from torch import Tensor, nn
from torch.nn import functional as F

from depthlab.models.activation_checkpointing import recomputed
from depthlab.models.blocks import conv3x3
from depthlab.models.counter_rng import CounterRNG, Dropout
from depthlab.models.resnet import he_init


class DenseNet(torchvision.models.DenseNet):  # type: ignore[misc]  # torchvision has no type hints
    """torchvision's DenseNet (Huang et al. 2017) with its arguments and names, and what the other networks have too.

    Args:
        growth_rate: channels that each layer adds.
        block_config: layers in each dense block.
        num_init_features: channels after the stem.
        bn_size: channels of a layer's 1x1 convolution, in growth rates.
        stem: "imagenet", or "small" for a 3x3 convolution without pooling (the paper's on 32x32 images).
        in_channels: 3 for colour, 1 for grey.
        num_classes: outputs.
        dropout: the part of the classifier's input that is zeroed while training.
        activation_checkpointing: whether dense blocks compute their activations twice instead of keeping them.
    """

    classifier_name = "classifier"
    unrectified = ()

    def __init__(
        self,
        growth_rate: int = 32,
        block_config: Sequence[int] = (6, 12, 24, 16),
        num_init_features: int = 64,
        bn_size: int = 4,
        stem: str = "imagenet",
        in_channels: int = 3,
        num_classes: int = 1000,
        *,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(growth_rate, tuple(block_config), num_init_features, bn_size, num_classes=num_classes)
        if stem not in ("small", "imagenet"):
            raise ValueError(f"stem={stem!r}: the stems are small and imagenet")
        if stem == "small":
            self.features.conv0 = conv3x3(in_channels, num_init_features)
            self.features.pool0 = nn.Identity()
        elif in_channels != 3:
            self.features.conv0 = nn.Conv2d(in_channels, num_init_features, 7, 2, padding=3, bias=False)
        he_init(self.features.conv0)
        self.stage_names = [f"denseblock{idx}" for idx in range(1, len(block_config) + 1)]
        self.activation_checkpointing = activation_checkpointing
        self.noise = CounterRNG() if dropout else None
        self.dropout: nn.Module = Dropout(dropout, self.noise) if self.noise is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, num_classes) of images (N, in_channels, H, W)."""
        if self.noise is not None:
            self.noise.begin_batch()
        for name, part in self.features.named_children():
            is_kept = not (self.activation_checkpointing and name in self.stage_names)
            x = part(x) if is_kept else recomputed([part], x)
        pooled = F.relu(x).mean(dim=(2, 3))
        return cast(Tensor, self.classifier(self.dropout(pooled)))

    def parts(self) -> dict[str, nn.Module]:
        """The modules before the classifier, in the order of the forward pass."""
        return dict(self.features.named_children())
