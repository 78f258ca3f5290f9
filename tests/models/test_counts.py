"""Parameters and multiply-adds of all twelve networks, against the paper's architecture."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from depthlab import models
from depthlab.models import ResNet, cifar_net, count_macs, count_params

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
