"""Plain and residual networks from images to images of the same size."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from depthlab.models.blocks import BasicBlock, conv3x3
from depthlab.models.resnet import he_init


class Restorer(nn.Module):
    """A 3x3 convolution, n blocks of two at full resolution, and a 3x3 convolution to the output's channels.

    `residual` is the only difference between a network and its plain twin, as in `ResNet`: parameters have the same
    names, shapes and, from one seed, values. Nothing adds the input image to the output. A batch norm stands before the
    last convolution: what n blocks add up grows with n, and squared errors would be steeper the deeper the network.

    Args:
        depth: weighted layers, 2n+2.
        width: channels of every layer but the last.
        residual: whether blocks add their input to their output.
        in_channels: 3 for colour, 1 for grey.
        num_classes: channels of the output.

    Raises:
        ValueError: `depth` is not 2n+2 with n >= 1.
    """

    classifier_name = "head"
    unrectified = ("head",)
    stage_names = ("layer1",)

    def __init__(
        self, depth: int, width: int = 16, residual: bool = True, in_channels: int = 3, num_classes: int = 3
    ) -> None:
        super().__init__()
        num_blocks, remainder = divmod(depth - 2, 2)
        if remainder or num_blocks < 1:
            raise ValueError(f"depth={depth}: the depth must be 2n+2 with n >= 1 (4, 6, 8, ...)")
        self.conv1 = conv3x3(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(*(BasicBlock(width, width, 1, residual, "A") for _ in range(num_blocks)))
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, num_classes, 3, padding=1)
        self.apply(he_init)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, num_classes, H, W) of images (N, in_channels, H, W)."""
        restored: Tensor = self.head(self.norm(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return restored

    def parts(self) -> dict[str, nn.Module]:
        """The modules before the last convolution, in the order of the forward pass."""
        return {name: self.get_submodule(name) for name in ("conv1", "bn1", "layer1", "norm")}
