"""The blocks of the networks: a branch f of two or three convolutions, and the shortcut that is added to it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (divides it by `stride`), without bias: batch norm follows."""
    kind = nn.Conv2d if stride == 1 else StridedConv2d
    return kind(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


class StridedConv2d(nn.Conv2d):
    """A strided convolution that does not stride over a single row or column: the result is the same.

    oneDNN leaves the weights' gradient uninitialised there in bf16 (seen with torch 2.15 on a CPU with AMX): an image
    of 16x16 pixels or less behind the ImageNet stem gave gradients of 1e30.
    """

    def forward(self, x: Tensor) -> Tensor:
        stride = [1 if size == 1 else step for size, step in zip(x.shape[-2:], self.stride, strict=True)]
        return F.conv2d(x, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution, without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


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
        self.drop_path: nn.Module = nn.Identity()  # stochastic depth, where a network asks for it

    def forward(self, x: Tensor) -> Tensor:
        f = self.drop_path(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(f + self.shortcut(x)) if self.residual else F.relu(f)

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)


class Bottleneck(nn.Module):
    """relu(f(x) + shortcut(x)) with 1x1, 3x3 and 1x1 convolutions in f (Figure 5 of the paper); relu(f(x)) where plain.

    The stride is in the 3x3 convolution, as in torchvision; the paper has it in the first 1x1. `inner` is the
    number of channels of the 3x3 convolution, `groups` its groups (Xie et al. 2017, ResNeXt).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        residual: bool,
        shortcut: str,
        inner: int,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.residual = residual
        self.downsample = build_shortcut(shortcut, in_channels, out_channels, stride) if residual else None
        self.drop_path: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        f = self.drop_path(self.bn3(self.conv3(y)))
        return F.relu(f + self.shortcut(x)) if self.residual else F.relu(f)

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)


class PreActivationBlock(nn.Module):
    """f(x) + shortcut(x) with batch norm and ReLU before each convolution of f (He et al. 2016, "Identity mappings").

    Two 3x3 convolutions, or 1x1, 3x3 and 1x1 where `inner` is given. Where the shape changes, and in a network's
    first block, the shortcut takes relu(bn1(x)) like f does, and projections have no batch norm of their own: the
    form in the code of that paper and of Wide ResNets.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        residual: bool,
        shortcut: str,
        inner: int | None = None,
        groups: int = 1,
        is_first: bool = False,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        if inner is None:
            self.conv1 = conv3x3(in_channels, out_channels, stride)
            self.bn2 = nn.BatchNorm2d(out_channels)
            self.conv2 = conv3x3(out_channels, out_channels)
        else:
            self.conv1 = conv1x1(in_channels, inner)
            self.bn2 = nn.BatchNorm2d(inner)
            self.conv2 = conv3x3(inner, inner, stride, groups)
            self.bn3 = nn.BatchNorm2d(inner)
            self.conv3 = conv1x1(inner, out_channels)
        self.is_bottleneck = inner is not None
        self.residual = residual
        self.shares_activation = is_first or stride != 1 or in_channels != out_channels
        self.downsample = build_shortcut(shortcut, in_channels, out_channels, stride, False) if residual else None
        self.drop_path: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        f: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        if self.is_bottleneck:
            f = self.conv3(F.relu(self.bn3(f)))
        f = self.drop_path(f)
        entrance = activated if self.shares_activation else x
        return f + self.shortcut(entrance) if self.residual else f

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)


def build_shortcut(
    option: str, in_channels: int, out_channels: int, stride: int, normalized: bool = True
) -> nn.Module | None:
    """The shortcut of a block by the paper's options (section 4.1); None is the identity.

    A: identity, with zero channels where the shape changes; B: a projection there; C: projections everywhere.
    """
    changes_shape = stride != 1 or in_channels != out_channels
    if option == "C" or (option == "B" and changes_shape):
        projection = nn.Sequential(conv1x1(in_channels, out_channels, stride))
        return projection.append(nn.BatchNorm2d(out_channels)) if normalized else projection
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


@dataclass(frozen=True)
class BlockPlan:
    """What the blocks of a network have in common.

    Args:
        kind: "basic" or "bottleneck".
        residual: whether a block adds its input to its output.
        shortcut: the paper's option A, B or C.
        preactivation: whether batch norm and ReLU come before each convolution instead of after it.
        groups: of a bottleneck's 3x3 convolution.
        width_per_group: the channels of a group where `width` is 64; more in proportion (ResNeXt, wide ResNets).
    """

    kind: str = "basic"
    residual: bool = True
    shortcut: str = "A"
    preactivation: bool = False
    groups: int = 1
    width_per_group: int = 64

    def __post_init__(self) -> None:
        if self.kind not in ("basic", "bottleneck"):
            raise ValueError(f"block={self.kind!r}: the blocks are basic and bottleneck")
        if self.kind == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError(f"groups={self.groups}, width_per_group={self.width_per_group}: bottleneck blocks only")

    @property
    def expansion(self) -> int:
        """Channels that a block puts out, for each one of its stage's width."""
        return 4 if self.kind == "bottleneck" else 1

    def build(self, in_channels: int, width: int, stride: int, is_first: bool) -> nn.Module:
        """A block of a stage of `width`; `is_first` of the whole network."""
        shape = (in_channels, width * self.expansion, stride, self.residual, self.shortcut)
        inner = int(width * self.width_per_group / 64) * self.groups if self.kind == "bottleneck" else None
        if self.preactivation:
            return PreActivationBlock(*shape, inner, self.groups, is_first)
        return BasicBlock(*shape) if inner is None else Bottleneck(*shape, inner, self.groups)
