"""The baseline without convolutions: fully connected layers on an image's values."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from depthlab.models.counter_rng import CounterRNG, Dropout
from depthlab.models.resnet import he_init


class Dense(nn.Module):
    """Linear layers of `widths` with ReLU between them, then a linear classifier.

    Args:
        widths: features of each hidden layer.
        image_size: height and width of the images; a network of this kind fits one size only.
        in_channels: 3 for colour, 1 for grey.
        num_classes: outputs.
        dropout: the part of the classifier's input that is zeroed while training.
    """

    classifier_name = "fc"
    unrectified = ()

    def __init__(
        self,
        widths: Sequence[int] = (128, 64, 32),
        image_size: tuple[int, int] = (28, 28),
        in_channels: int = 3,
        num_classes: int = 10,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        features = in_channels * image_size[0] * image_size[1]
        self.stage_names = [f"layer{idx}" for idx in range(1, len(widths) + 1)]
        for name, width in zip(self.stage_names, widths, strict=True):
            self.add_module(name, nn.Linear(features, width))
            features = width
        self.fc = nn.Linear(features, num_classes)
        self.apply(he_init)
        self.noise = CounterRNG() if dropout else None
        self.dropout: nn.Module = Dropout(dropout, self.noise) if self.noise is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, num_classes) of images (N, in_channels, H, W)."""
        if self.noise is not None:
            self.noise.begin_batch()
        x = x.flatten(1)
        for name in self.stage_names:
            x = F.relu(self.get_submodule(name)(x))
        scores: Tensor = self.fc(self.dropout(x))
        return scores

    def parts(self) -> dict[str, nn.Module]:
        """The modules before the classifier, in the order of the forward pass."""
        return {name: self.get_submodule(name) for name in self.stage_names}
