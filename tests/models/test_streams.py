"""Two streams: what brightness is, and that colour alone and brightness alone add up to both."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from depthlab.models import RGBL, TwoStream, cifar_net, two_stream_dense

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
