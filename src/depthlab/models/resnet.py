"""Plain and residual networks: a stem, stages of blocks, a classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from depthlab.models.blocks import BasicBlock, conv3x3


class ResNet(nn.Module):
    """A residual network, or its plain twin: `residual` is the only difference between the two.

    Each stage after the first halves height and width in its first block. Parameters carry torchvision's names.

    Args:
        num_blocks: blocks in each stage.
        widths: channels of each stage.
        residual: whether blocks add their input to their output.
        shortcut: the paper's option A, B or C.
        in_channels: 3 for colour, 1 for grey.
        num_classes: outputs.
    """

    def __init__(
        self,
        num_blocks: Sequence[int],
        widths: Sequence[int],
        residual: bool = True,
        shortcut: str = "A",
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stage_names = [f"layer{idx}" for idx in range(1, len(widths) + 1)]
        channels = widths[0]
        for idx, (name, depth, width) in enumerate(zip(self.stage_names, num_blocks, widths, strict=True)):
            strides = [1 if idx == 0 else 2] + [1] * (depth - 1)
            blocks = []
            for stride in strides:
                blocks.append(BasicBlock(channels, width, stride, residual, shortcut))
                channels = width
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)
        self.apply(he_init)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, num_classes) of images (N, in_channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        pooled = x.mean(dim=(2, 3))
        scores: Tensor = self.fc(pooled)
        return scores


def he_init(module: nn.Module) -> None:
    """Normal weights of variance 2 / fan-in (He et al. 2015, "Delving deep into rectifiers", equation 10)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def cifar_net(
    depth: int, residual: bool = True, shortcut: str = "A", in_channels: int = 3, num_classes: int = 10
) -> ResNet:
    """The network of section 4.2 of the paper with `depth` = 6n+2 weighted layers.

    A convolution with 16 filters, three stages of 2n convolutions with 16, 32 and 64 filters, a linear layer.
    The paper's images are 32x32; any size works, down to 8x8 and below.

    Raises:
        ValueError: `depth` is not 6n+2 with n >= 1.
    """
    blocks_per_stage, remainder = divmod(depth - 2, 6)
    if remainder or blocks_per_stage < 1:
        raise ValueError(f"depth={depth}: the depth must be 6n+2 with n >= 1 (8, 14, 20, ...)")
    return ResNet([blocks_per_stage] * 3, [16, 32, 64], residual, shortcut, in_channels, num_classes)
