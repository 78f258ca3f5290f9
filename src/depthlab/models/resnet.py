"""Plain and residual networks: a stem, stages of blocks, a classifier. The papers' networks are its arguments."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from depthlab.models.activation_checkpointing import recomputed
from depthlab.models.blocks import BlockPlan, conv3x3
from depthlab.models.counter_rng import CounterRNG, Dropout, DropPath, keep_probabilities

# StepChunks in each stage of the ImageNet networks (Table 1 of the paper), and the kind of block from that depth on.
IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
FIRST_BOTTLENECK_DEPTH = 50
IMAGENET_WIDTHS = (64, 128, 256, 512)


class ResNet(nn.Module):
    """A residual network, or its plain twin: `residual` is the only difference between the two.

    Each stage after the first halves height and width in its first block. Parameters carry torchvision's names.
    With pre-activation the stem is a convolution alone, and batch norm and ReLU follow the last block.

    Args:
        num_blocks: blocks in each stage.
        widths: channels of each stage; bottleneck blocks put out four times as many.
        residual: whether blocks add their input to their output.
        shortcut: the paper's option A, B or C.
        in_channels: 3 for colour, 1 for grey.
        num_classes: outputs.
        block: "basic" or "bottleneck".
        preactivation: batch norm and ReLU before each convolution instead of after it.
        stem: "small", a 3x3 convolution; or "imagenet", a 7x7 one and a pooling, which divide the size by 4.
        stem_channels: channels after the stem; those of the first stage where it is None.
        groups: of bottlenecks' 3x3 convolutions (ResNeXt).
        width_per_group: channels of a group where the stage's width is 64.
        dropout: the part of the classifier's input that is zeroed while training.
        stochastic_depth: the probability of dropping the last block's f, 1 - p_L; earlier ones by the linear rule.
        activation_checkpointing: whether stages compute their activations twice instead of keeping them.

    Raises:
        ValueError: arguments that name no network, such as stochastic depth where nothing would remain of a block.
    """

    classifier_name = "fc"
    unrectified = ()  # layers, beside the first, whose input no ReLU made: `depthlab diagnose` looks for the others'

    def __init__(
        self,
        num_blocks: Sequence[int],
        widths: Sequence[int],
        residual: bool = True,
        shortcut: str = "A",
        in_channels: int = 3,
        num_classes: int = 10,
        *,
        block: str = "basic",
        preactivation: bool = False,
        stem: str = "small",
        stem_channels: int | None = None,
        groups: int = 1,
        width_per_group: int = 64,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        plan = BlockPlan(block, residual, shortcut, preactivation, groups, width_per_group)
        channels = stem_channels or widths[0]
        self.conv1 = _stem_convolution(stem, in_channels, channels)
        self.bn1 = nn.Identity() if preactivation else nn.BatchNorm2d(channels)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        self.preactivation = preactivation
        self.activation_checkpointing = activation_checkpointing
        self.stage_names = [f"layer{idx}" for idx in range(1, len(widths) + 1)]
        for idx, (name, depth, width) in enumerate(zip(self.stage_names, num_blocks, widths, strict=True)):
            strides = [1 if idx == 0 else 2] + [1] * (depth - 1)
            blocks = []
            for place, stride in enumerate(strides):
                blocks.append(plan.build(channels, width, stride, is_first=idx == place == 0))
                channels = width * plan.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(channels) if preactivation else nn.Identity()
        self.fc = nn.Linear(channels, num_classes)
        self.apply(he_init)
        self._regularize(dropout, stochastic_depth, residual)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, num_classes) of images (N, in_channels, H, W)."""
        if self.noise is not None:
            self.noise.begin_batch()
        x = self.conv1(x)
        x = self.maxpool(x if self.preactivation else F.relu(self.bn1(x)))
        for name in self.stage_names:
            stage = self.get_submodule(name)
            x = recomputed([*stage.children()], x) if self.activation_checkpointing else stage(x)
        if self.preactivation:
            x = F.relu(self.norm(x))
        pooled = x.mean(dim=(2, 3))
        scores: Tensor = self.fc(self.dropout(pooled))
        return scores

    def parts(self) -> dict[str, nn.Module]:
        """The modules before the classifier, in the order of the forward pass."""
        names = ("conv1", "bn1", *self.stage_names, "norm")
        return {name: self.get_submodule(name) for name in names}

    def _regularize(self, dropout: float, stochastic_depth: float, residual: bool) -> None:
        """After the weights are drawn, so that they do not depend on it."""
        self.noise = CounterRNG() if dropout or stochastic_depth else None
        self.dropout: nn.Module = nn.Identity()
        if self.noise is not None and dropout:
            self.dropout = Dropout(dropout, self.noise)
        if self.noise is not None and stochastic_depth:
            if not residual:
                raise ValueError(f"stochastic_depth={stochastic_depth}: a plain network has no shortcuts")
            blocks = [block for name in self.stage_names for block in self.get_submodule(name).children()]
            for idx, keep_probability in enumerate(keep_probabilities(len(blocks), stochastic_depth)):
                blocks[idx].drop_path = DropPath(keep_probability, self.noise, idx)


def _stem_convolution(stem: str, in_channels: int, channels: int) -> nn.Conv2d:
    if stem == "small":
        return conv3x3(in_channels, channels)
    if stem == "imagenet":
        return nn.Conv2d(in_channels, channels, 7, 2, padding=3, bias=False)
    raise ValueError(f"stem={stem!r}: the stems are small and imagenet")


def he_init(module: nn.Module) -> None:
    """Normal weights of variance 2 / fan-in (He et al. 2015, "Delving deep into rectifiers", equation 10)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def cifar_net(
    depth: int,
    residual: bool = True,
    shortcut: str = "A",
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    block: str = "basic",
    preactivation: bool = False,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    activation_checkpointing: bool = False,
) -> ResNet:
    """The network of section 4.2 of the paper with `depth` = 6n+2 weighted layers; 9n+2 with bottleneck blocks.

    A convolution with 16 filters, three stages of n blocks with 16, 32 and 64 filters, a linear layer. The paper's
    images are 32x32; any size works, down to 8x8 and below. With pre-activation these are the networks of depth
    110, 164 and 1001 of He et al. 2016. The other arguments are those of `ResNet`.

    Raises:
        ValueError: `depth` is not 6n+2 (9n+2 with bottlenecks) with n >= 1.
    """
    layers = 9 if block == "bottleneck" else 6
    blocks_per_stage, remainder = divmod(depth - 2, layers)
    if remainder or blocks_per_stage < 1:
        examples = ", ".join(str(layers * n + 2) for n in (1, 2, 3))
        raise ValueError(f"depth={depth}: the depth must be {layers}n+2 with n >= 1 ({examples}, ...)")
    return ResNet(
        [blocks_per_stage] * 3,
        [16, 32, 64],
        residual,
        shortcut,
        in_channels,
        num_classes,
        block=block,
        preactivation=preactivation,
        stem_channels=16,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        activation_checkpointing=activation_checkpointing,
    )


def wide_net(
    depth: int,
    width_factor: int,
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    activation_checkpointing: bool = False,
) -> ResNet:
    """A wide residual network WRN-`depth`-`width_factor` (Zagoruyko and Komodakis 2016, Table 1).

    Pre-activation basic blocks, projections where the shape changes, and stages `width_factor` times as wide as
    16, 32 and 64. That paper counts depth as 6n+4: two convolutions in each of 3n blocks, the stem, and the three
    projections, but not the linear layer.

    Raises:
        ValueError: `depth` is not 6n+4 with n >= 1, or the factor is below 1.
    """
    blocks_per_stage, remainder = divmod(depth - 4, 6)
    if remainder or blocks_per_stage < 1:
        raise ValueError(f"depth={depth}: the depth must be 6n+4 with n >= 1 (10, 16, 22, ...)")
    if width_factor < 1:
        raise ValueError(f"width_factor={width_factor}: at least 1")
    return ResNet(
        [blocks_per_stage] * 3,
        [16 * width_factor, 32 * width_factor, 64 * width_factor],
        True,
        "B",
        in_channels,
        num_classes,
        preactivation=True,
        stem_channels=16,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        activation_checkpointing=activation_checkpointing,
    )


def imagenet_net(
    depth: int,
    residual: bool = True,
    shortcut: str = "B",
    in_channels: int = 3,
    num_classes: int = 1000,
    *,
    preactivation: bool = False,
    stem: str = "imagenet",
    groups: int = 1,
    width_per_group: int = 64,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    activation_checkpointing: bool = False,
) -> ResNet:
    """A network of Table 1 of the paper: depth 18 or 34 with basic blocks; 50, 101 or 152 with bottlenecks.

    With shortcut option B it is torchvision's network of that name, in names and in what it computes.
    groups=32, width_per_group=4 at depth 50 is resnext50_32x4d, width_per_group=128 is wide_resnet50_2.

    Raises:
        ValueError: another depth.
    """
    if depth not in IMAGENET_BLOCKS:
        raise ValueError(f"depth={depth}: the depths are {', '.join(map(str, IMAGENET_BLOCKS))}")
    return ResNet(
        IMAGENET_BLOCKS[depth],
        IMAGENET_WIDTHS,
        residual,
        shortcut,
        in_channels,
        num_classes,
        block="bottleneck" if depth >= FIRST_BOTTLENECK_DEPTH else "basic",
        preactivation=preactivation,
        stem=stem,
        groups=groups,
        width_per_group=width_per_group,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        activation_checkpointing=activation_checkpointing,
    )
