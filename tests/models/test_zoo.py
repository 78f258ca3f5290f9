"""The networks of other papers and of torchvision: counts, names, and what they compute against their originals."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from depthlab import models
from depthlab.config.registry import components, presets
from depthlab.models import (
    RGBL,
    Dense,
    ResNet,
    TwoStream,
    cifar_net,
    count_macs,
    count_params,
    imagenet_net,
    two_stream_dense,
    wide_net,
)
from depthlab.models.blocks import PreActivationBlock, StridedConv2d

from ..conftest import ROOT

SHARED_WITH_TORCHVISION = [
    "resnet18",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2")
    ),
]


def on_meta(name: str, **arguments: Any) -> nn.Module:
    build: Callable[..., nn.Module] = getattr(models, name)
    with torch.device("meta"):
        return build(**arguments)


def with_random_statistics(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.2, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


@pytest.mark.parametrize("name", SHARED_WITH_TORCHVISION)
def test_torchvisions_state_dicts_load_strictly_and_give_the_same_scores(name: str) -> None:
    torch.manual_seed(0)
    theirs = with_random_statistics(getattr(torchvision.models, name)())
    ours = getattr(models, name)().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert expected.std() > 0
    assert ((found - expected).abs() / expected.abs().max()).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        # The follow-ups: 1.7, 1.7 and 10.2 M in He et al. 2016; 2.7, 36.5 and 8.9 M in Zagoruyko and Komodakis 2016.
        ("preact_resnet110", 1_727_962),
        ("preact_resnet164", 1_703_258),
        ("preact_resnet1001", 10_327_706),
        ("wide_resnet16_4", 2_748_890),
        ("wide_resnet28_10", 36_479_194),
        ("wide_resnet40_4", 8_949_210),
        ("densenet121", 7_978_856),
        ("densenet_bc100_12", 769_162 + 2 * 24),  # the authors' code has no norm behind its first convolution
        ("two_stream_dense", 422_996),
    ],
)
def test_parameters_are_those_of_the_reference(name: str, num_params: int) -> None:
    assert count_params(on_meta(name)) == num_params


@pytest.mark.parametrize(("name", "giga_macs"), [("resnet18", 1.814), ("resnet50", 4.089)])
def test_multiply_adds_are_those_of_the_reference(name: str, giga_macs: float) -> None:
    assert round(count_macs(on_meta(name), (3, 224, 224)) / 1e9, 3) == giga_macs


@pytest.mark.parametrize("depth", [18, 34])
def test_plain_and_residual_imagenet_networks_are_twins(depth: int) -> None:
    plain, residual = on_meta(f"plain{depth}").state_dict(), on_meta(f"resnet{depth}", shortcut="A").state_dict()
    assert {name: value.shape for name, value in plain.items()} == {k: v.shape for k, v in residual.items()}


def test_imagenet_twins_start_from_the_same_values() -> None:
    torch.manual_seed(0)
    plain = models.plain18(num_classes=3).state_dict()
    torch.manual_seed(0)
    residual = models.resnet18(shortcut="A", num_classes=3).state_dict()
    assert all(torch.equal(plain[name], residual[name]) for name in plain)


def preactivation_from_the_paper(state: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    """Figure 4 (e) of He et al. 2016 with basic blocks and option A, sharing no code with the project."""

    def active(name: str, x: Tensor) -> Tensor:
        values = [state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values).clamp(min=0)

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for idx in range(blocks):
            name, stride = f"layer{stage}.{idx}", 2 if stage > 1 and idx == 0 else 1
            y = active(f"{name}.bn1", x)
            if idx == 0:
                x = y
            y = F.conv2d(y, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(active(f"{name}.bn2", y), state[f"{name}.conv2.weight"], padding=1)
            identity = x[:, :, ::stride, ::stride]
            y[:, : identity.shape[1]] += identity
            x = y
    return active("norm", x).mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def test_pre_activation_equals_an_independent_definition() -> None:
    torch.manual_seed(0)
    network = with_random_statistics(cifar_net(14, preactivation=True))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = preactivation_from_the_paper(network.state_dict(), images, 2)
        assert torch.allclose(network(images), expected, rtol=1e-4, atol=1e-4)


def test_a_pre_activation_block_adds_its_input_untouched() -> None:
    block = PreActivationBlock(4, 4, 1, True, "A").eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x)


def test_a_plain_pre_activation_block_adds_nothing() -> None:
    block = PreActivationBlock(4, 4, 1, False, "A", inner=2).eval()
    nn.init.zeros_(block.conv3.weight)
    assert not block(torch.randn(2, 4, 6, 6)).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cifar_net(165, block="bottleneck"), r"depth=165: the depth must be 9n\+2"),
        (lambda: wide_net(27, 10), r"depth=27: the depth must be 6n\+4"),
        (lambda: wide_net(16, 0), "width_factor=0"),
        (lambda: imagenet_net(51), "depth=51: the depths are 18, 34, 50, 101, 152"),
        (lambda: imagenet_net(18, groups=32), "groups=32, .*bottleneck blocks only"),
        (lambda: imagenet_net(18, stem="large"), "stem='large'"),
        (lambda: ResNet([1], [4], block="wide"), "block='wide'"),
        (lambda: cifar_net(8, False, stochastic_depth=0.1), "stochastic_depth=0.1: a plain network"),
        (lambda: models.densenet(stem="large"), "stem='large'"),
    ],
)
def test_what_names_no_network_is_refused_by_name(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("size", [32, 40, 64])
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_every_size_fits_either_stem(stem: str, size: int) -> None:
    network = on_meta("resnet18", stem=stem, num_classes=7)
    assert network(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)
    stride = size // network.get_submodule("layer1")(torch.empty(1, 64, size, size, device="meta")).shape[-1]
    assert stride == 1


def test_the_dense_network_takes_images_that_are_not_square() -> None:
    assert Dense((16,), (8, 6))(torch.randn(2, 3, 8, 6)).shape == (2, 10)


def test_a_small_densenet_keeps_the_size_in_its_stem() -> None:
    network = on_meta("densenet121", stem="small", in_channels=1, num_classes=7)
    assert network.get_submodule("features.pool0")(torch.empty(1, 64, 8, 8, device="meta")).shape[-1] == 8
    assert network(torch.empty(2, 1, 32, 32, device="meta")).shape == (2, 7)


def test_torchvisions_densenet_loads_strictly_and_gives_the_same_scores() -> None:
    torch.manual_seed(0)
    arguments = {"growth_rate": 4, "block_config": (2, 2), "num_init_features": 8, "num_classes": 5}
    theirs = with_random_statistics(torchvision.models.DenseNet(**arguments))
    ours = models.densenet(**arguments).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_strided_convolution_of_one_pixel_has_the_gradient_of_its_centre(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    convolution = StridedConv2d(64, 64, 3, 2, padding=1, bias=False).to(dtype)
    x = torch.randn(32, 64, 1, 1, dtype=dtype)
    y = convolution(x)
    assert torch.equal(y, F.conv2d(x, convolution.weight, stride=2, padding=1))
    y.sum().backward()
    assert convolution.weight.grad is not None
    edges = convolution.weight.grad.clone()
    edges[:, :, 1, 1] = 0
    assert not edges.any()


@pytest.mark.slow
def test_models_need_neither_hydra_nor_lightning_nor_torchvision() -> None:
    code = "import sys; from depthlab.models import resnet56, resnet18; resnet56(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"hydra", "omegaconf", "lightning", "torchvision"} & set(done.stdout.split())


@pytest.mark.parametrize("name", ["resnet20", "two_stream_dense"])
def test_torch_hub_builds_networks_from_the_folder(name: str) -> None:
    network = torch.hub.load(str(ROOT), name, source="local", num_classes=7)
    assert network(torch.zeros(2, 3, 28, 28)).shape == (2, 7)


def test_torch_hub_lists_every_preset() -> None:
    ours = {name for name, each in components("model").items() if not each.extension}  # hubconf.py lists no others
    names = {name for name, (component, _) in presets("model").items() if component in ours}
    assert {"plain20", "resnet1202", "densenet121"} <= names
    source = ast.parse((ROOT / "hubconf.py").read_text())
    entries = {alias.name for node in source.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names <= entries


def test_two_streams_are_two_networks_with_their_own_norms_and_classifiers() -> None:
    network = on_meta("two_stream_resnet18", num_classes=10)
    assert isinstance(network, TwoStream)
    assert count_params(network) == 22_357_012
    assert len(list(network.parameters())) == 124
    assert (count_params(network.colour), count_params(network.brightness)) == (11_181_642, 11_175_370)


WEIGHTS = torch.tensor([0.299, 0.587, 0.114])


def streams() -> TwoStream:
    torch.manual_seed(0)
    return TwoStream(partial(cifar_net, 8)).eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("build", [streams, partial(two_stream_dense, image_size=(8, 8))])
def test_colour_only_and_brightness_only_add_up_to_both(build: partial[nn.Module], channels: int) -> None:
    network = build().eval()
    assert isinstance(network, TwoStream)
    images = torch.randn(4, channels, 8, 8)
    rgb = images.expand(-1, 3, -1, -1)
    brightness = torch.einsum("nchw,c->nhw", rgb, WEIGHTS)[:, None]
    alone = network.colour(rgb) + network.brightness(brightness)
    assert torch.allclose(network(images), alone, atol=1e-5)
    assert not torch.allclose(network(images), network.colour(rgb), atol=1e-2)


def test_rgbl_keeps_the_colours_and_adds_brightness() -> None:
    images = torch.rand(2, 3, 4, 5)
    rgbl = RGBL()(images)
    assert rgbl.shape == (2, 4, 4, 5)
    assert torch.equal(rgbl[:, :3], images)
    assert torch.allclose(rgbl[:, 3], 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2])


def test_a_grey_image_counts_as_three_equal_channels() -> None:
    images = torch.rand(2, 1, 4, 5)
    assert torch.allclose(RGBL()(images), images.expand(-1, 4, -1, -1), atol=1e-6)


def test_brightness_is_that_of_the_image_before_it_was_normalised() -> None:
    original, mean = torch.rand(8, 3, 4, 4), torch.tensor([0.5, 0.4, 0.3])
    deviation = torch.tensor([0.2, 0.25, 0.3])
    images = (original - mean[:, None, None]) / deviation[:, None, None]
    transform = RGBL()
    transform.set_deviations(deviation.tolist())
    luma = torch.einsum("nchw,c->nhw", original, WEIGHTS) - (mean * WEIGHTS).sum()
    assert torch.allclose(transform(images)[:, 3] * (WEIGHTS * deviation).sum(), luma, atol=1e-6)


def test_every_parameter_of_both_streams_gets_a_gradient_and_moves() -> None:
    network = streams().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    nn.functional.cross_entropy(network(torch.randn(8, 3, 8, 8)), torch.arange(8)).backward()
    optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in network.named_parameters())
