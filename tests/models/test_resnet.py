"""The networks of section 4.2 of the paper: twins, names, shapes, counts, blocks, and what they compute."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthlab import models
from depthlab.models import BasicBlock, ResNet, ZeroPadShortcut, cifar_net, count_macs, count_params


def seeded(depth: int, residual: bool, shortcut: str = "A", seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return cifar_net(depth, residual, shortcut)


def with_random_statistics(network: ResNet) -> ResNet:
    """Batch-norm values that differ from layer to layer: at 0, 1, 0, 1 a mix-up of layers would not show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


def written_from_the_paper(state: dict[str, Tensor], x: Tensor, depth: int, residual: bool) -> Tensor:
    """Section 4.2 as one function of named weights, sharing no code with the project."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{key}"][None, :, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    x = norm("bn1", F.conv2d(x, state["conv1.weight"], padding=1)).clamp(min=0)
    for stage in (1, 2, 3):
        for idx in range((depth - 2) // 6):
            name, stride = f"layer{stage}.{idx}", 2 if stage > 1 and idx == 0 else 1
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = norm(f"{name}.bn1", y).clamp(min=0)
            y = norm(f"{name}.bn2", F.conv2d(y, state[f"{name}.conv2.weight"], padding=1))
            if residual:
                identity = x if stride == 1 else x[:, :, ::2, ::2]
                y[:, : identity.shape[1]] += identity
            x = y.clamp(min=0)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def test_what_is_not_said_of_a_network_is_as_in_the_paper() -> None:
    torch.manual_seed(0)
    by_widths = ResNet([1, 1, 1], [16, 32, 64])
    by_depth = seeded(8, residual=True)
    assert str(by_widths) == str(by_depth)
    assert all(torch.equal(value, by_depth.state_dict()[name]) for name, value in by_widths.state_dict().items())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(by_widths(images), by_depth(images))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("depth", [8, 20])
def test_output_equals_an_independent_definition(depth: int, residual: bool) -> None:
    network = with_random_statistics(seeded(depth, residual))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = written_from_the_paper(network.state_dict(), images, depth, residual)
        assert torch.allclose(network(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [20, 56])
def test_twins_share_every_name_shape_and_value(depth: int) -> None:
    plain, residual = (seeded(depth, kind).state_dict() for kind in (False, True))
    assert list(plain) == list(residual)
    assert all(torch.equal(plain[name], residual[name]) for name in plain)


def test_twins_differ_in_what_they_compute() -> None:
    images = torch.randn(2, 3, 8, 8)
    assert not torch.allclose(seeded(8, True)(images), seeded(8, False)(images))


def test_initial_weights_follow_from_the_seed() -> None:
    first, again, other = (seeded(8, True, seed=seed).conv1.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_option_b_adds_the_same_2752_parameters_at_any_depth(depth: int) -> None:
    assert count_params(seeded(depth, True, "B")) - count_params(seeded(depth, True, "A")) == 2752


def test_option_c_adds_a_projection_to_every_block() -> None:
    # Identity blocks of stages 1, 2, 3 gain a 1x1 convolution and two batch-norm vectors each; n = 3 at depth 20.
    square = {width: width * width + 2 * width for width in (16, 32, 64)}
    gained = count_params(seeded(20, True, "C")) - count_params(seeded(20, True, "B"))
    assert gained == 3 * square[16] + 2 * square[32] + 2 * square[64]


@pytest.mark.parametrize("shortcut", ["B", "C"])
def test_parameter_names_are_those_of_torchvision(shortcut: str) -> None:
    from torchvision.models.resnet import BasicBlock
    from torchvision.models.resnet import ResNet as Torchvision

    theirs = set(Torchvision(BasicBlock, [2, 2, 2, 1]).state_dict())
    ours = set(seeded(14, True, shortcut).state_dict())
    # Theirs projects where the shape changes only, and has a fourth stage.
    everywhere = {name for name in ours if ".downsample." in name and name not in theirs}
    assert ours - everywhere == {name for name in theirs if not name.startswith("layer4")}
    assert bool(everywhere) == (shortcut == "C")


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 18, 21, 34, 101])
def test_a_depth_that_is_not_6n_plus_2_is_refused_by_name(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth={depth}\b.*6n\+2"):
        cifar_net(depth)


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (1, 8), (3, 7)])
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_one_class_serves_all_image_sizes(channels: int, size: int, shortcut: str) -> None:
    network = cifar_net(8, shortcut=shortcut, in_channels=channels, num_classes=7)
    assert network(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_each_later_stage_halves_the_size_and_doubles_the_channels() -> None:
    network, shapes = seeded(14, True), []
    for name in ("layer1", "layer2", "layer3"):
        network.get_submodule(name).register_forward_hook(lambda _module, _in, out: shapes.append(tuple(out.shape[1:])))
    network(torch.zeros(2, 3, 32, 32))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, pytest.param(1202, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["plain", "resnet"])
def test_every_name_builds_the_network_it_says(kind: str, depth: int) -> None:
    build: Callable[..., ResNet] = getattr(models, f"{kind}{depth}")
    with torch.device("meta"):  # shapes alone: 19 million values take seconds to draw
        network = build()
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    assert network.layer1[0].residual == (kind == "resnet")


def test_weights_are_drawn_with_the_deviation_of_he_and_biases_are_zero() -> None:
    network = seeded(20, True)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 5000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
            assert abs(module.weight.mean().item()) < 0.1 * math.sqrt(2 / fan_in)
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
    assert network.fc.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.15)
    assert not network.fc.bias.any()


# Depth, parameters (plain = residual with option A), millions of multiply-adds of a 32x32 image to two digits.
REFERENCE = [
    (20, 269_722, 40.55),
    (32, 464_154, 68.86),
    (44, 658_586, 97.17),
    (56, 853_018, 125.49),
    (110, 1_727_962, 252.89),
    pytest.param(1202, 19_421_274, 2829.24, marks=pytest.mark.slow),
]


def macs_by_hand(depth: int, size: int, in_channels: int = 3, num_classes: int = 10) -> int:
    """Multiply-adds of section 4.2's layers; sizes are halved rounding up, as a stride of 2 does."""
    total, n, before = 16 * in_channels * 9 * size**2, (depth - 2) // 6, 16
    for width in (16, 32, 64):
        size = size if width == 16 else -(-size // 2)
        total += (before * width + (2 * n - 1) * width**2) * 9 * size**2
        before = width
    return total + 64 * num_classes


@pytest.mark.parametrize("kind", ["plain", "resnet"])
@pytest.mark.parametrize(("depth", "num_params", "mega_macs"), REFERENCE)
def test_counts_are_those_of_the_reference_table(kind: str, depth: int, num_params: int, mega_macs: float) -> None:
    build: Callable[..., ResNet] = getattr(models, f"{kind}{depth}")
    with torch.device("meta"):
        network = build()
    assert count_params(network) == num_params
    macs = count_macs(network, (3, 32, 32))
    assert macs == macs_by_hand(depth, 32)
    assert round(macs / 1e6, 2) == mega_macs


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (1, 8), (3, 7)])
def test_multiply_adds_follow_the_image(channels: int, size: int) -> None:
    network = cifar_net(8, in_channels=channels, num_classes=5)
    assert count_macs(network, (channels, size, size)) == macs_by_hand(8, size, channels, 5)


def test_counting_leaves_the_network_as_it_was() -> None:
    network = cifar_net(8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_macs(network, (3, 8, 8))
    assert network.training
    assert all(value.device.type == "cpu" for value in network.state_dict().values())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_buffers_are_no_parameters() -> None:
    assert count_params(nn.BatchNorm2d(5)) == 10


def block_without_f(stride: int = 1, residual: bool = True, shortcut: str = "A") -> BasicBlock:
    """A block whose f is zero everywhere, so that what comes out is what the shortcut does."""
    block = BasicBlock(4, 4 * stride, stride, residual, shortcut).eval()
    nn.init.zeros_(block.conv2.weight)
    return block


def test_the_shortcut_is_added_before_the_last_relu() -> None:
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block_without_f()(x), x.clamp(min=0))


def test_a_plain_block_adds_nothing() -> None:
    block = block_without_f(residual=False)
    assert block.downsample is None
    assert not block(torch.randn(2, 4, 6, 6)).any()


def test_nothing_comes_between_batch_norm_and_addition() -> None:
    block = block_without_f()
    nn.init.constant_(block.bn2.bias, -3.0)  # f = -3: a ReLU inside f would turn it into 0
    x = torch.full((1, 4, 2, 2), 5.0)
    assert torch.equal(block(x), torch.full_like(x, 2.0))


@pytest.mark.parametrize(("stride", "size"), [(2, 6), (2, 7), (1, 5)])
def test_option_a_takes_every_second_pixel_and_adds_zero_channels(stride: int, size: int) -> None:
    x = torch.randn(2, 3, size, size)
    y = ZeroPadShortcut(added_channels=2, stride=stride)(x)
    assert torch.equal(y[:, :3], x[:, :, ::stride, ::stride])
    assert y.shape[1] == 5
    assert not y[:, 3:].any()


@pytest.mark.parametrize(
    ("shortcut", "stride", "kind"),
    [("A", 1, type(None)), ("A", 2, ZeroPadShortcut), ("B", 1, type(None)), ("B", 2, nn.Sequential)]
    + [("C", stride, nn.Sequential) for stride in (1, 2)],
)
def test_options_project_where_the_paper_says(shortcut: str, stride: int, kind: type) -> None:
    assert isinstance(BasicBlock(4, 4 * stride, stride, True, shortcut).downsample, kind)


def test_a_projection_is_a_strided_1x1_convolution_without_bias_and_batch_norm() -> None:
    convolution, norm = BasicBlock(4, 8, 2, True, "B").downsample or ()
    assert (convolution.kernel_size, convolution.stride, convolution.bias) == ((1, 1), (2, 2), None)
    assert isinstance(norm, nn.BatchNorm2d)


def test_the_stride_is_in_the_first_convolution() -> None:
    block = BasicBlock(4, 8, 2, True, "A")
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


@pytest.mark.parametrize("option", ["a", "D", ""])
def test_another_option_is_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=f"shortcut='{option}'"):
        BasicBlock(4, 8, 2, True, option)
