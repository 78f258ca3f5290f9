"""The blocks networks are built from: two convolutions, and what is added to them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (divides it by `stride`), without bias: batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """relu(f(x) + shortcut(x)) with two 3x3 convolutions in f (Figure 2 of the paper); relu(f(x)) where plain.

    Maps (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride), sizes rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, residual: bool, shortcut: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.residual = residual
        # torchvision's name, so that published weights fit; it holds parameters for options B and C only.
        self.downsample = build_shortcut(shortcut, in_channels, out_channels, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        f = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(f + self.shortcut(x)) if self.residual else F.relu(f)

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)


def build_shortcut(option: str, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The shortcut of a block by the paper's options (section 4.1); None is the identity.

    A: identity, with zero channels where the shape changes; B: a projection there; C: projections everywhere.
    """
    changes_shape = stride != 1 or in_channels != out_channels
    if option == "C" or (option == "B" and changes_shape):
        projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        return nn.Sequential(projection, nn.BatchNorm2d(out_channels))
    if option in ("A", "B"):
        return ZeroPadShortcut(out_channels - in_channels, stride) if changes_shape else None
    raise ValueError(f"shortcut={option!r}: the options are A, B and C")


class ZeroPadShortcut(nn.Module):
    """Option A where the shape changes: every `stride`-th pixel, and zeros for the added channels. No parameters."""

    def __init__(self, added_channels: int, stride: int) -> None:
        super().__init__()
        self.added_channels = added_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added_channels))
