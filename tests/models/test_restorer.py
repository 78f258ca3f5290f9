"""Networks from images to images: plain and residual twins, what they compute, which tasks they fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from depthlab.config.images import ImageSpec
from depthlab.errors import InputError
from depthlab.models.counts import count_params
from depthlab.models.restorer import Restorer
from depthlab.runs.build import build_module, build_network

from ..conftest import Compose


def twins(depth: int, width: int = 4) -> list[Restorer]:
    """The plain and the residual network from one seed."""
    made = []
    for residual in (False, True):
        torch.manual_seed(0)
        made.append(Restorer(depth, width, residual, in_channels=1, num_classes=2))
    return made


@pytest.mark.parametrize("depth", [4, 8, 20])
def test_plain_and_residual_share_names_shapes_and_values(depth: int) -> None:
    plain, residual = (network.state_dict() for network in twins(depth))
    assert list(plain) == list(residual)
    assert all(torch.equal(value, residual[name]) for name, value in plain.items())


@pytest.mark.parametrize("depth", [4, 8, 20])
def test_depth_counts_the_weighted_layers(depth: int) -> None:
    network = twins(depth)[0]
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == depth
    inner = (depth - 2) * (9 * 4 * 4 + 2 * 4)
    assert count_params(network) == 9 * 4 + 2 * 4 + inner + 9 * 4 * 2 + 2


@pytest.mark.parametrize("residual", [False, True])
def test_the_output_is_that_of_the_equations(residual: bool) -> None:
    network = twins(4)[residual].eval()
    images = torch.randn(2, 1, 5, 7)
    x = F.relu(network.bn1(network.conv1(images)))
    block = network.layer1[0]
    f = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    expected = network.head(F.relu(f + x) if residual else F.relu(f))
    assert torch.equal(network(images), expected)
    assert expected.shape == (2, 2, 5, 7)


@pytest.mark.parametrize("depth", [0, 2, 5, 21])
def test_other_depths_are_refused(depth: int, compose_config: Compose) -> None:
    with pytest.raises(ValueError, match=f"depth={depth}"):
        Restorer(depth)
    restoring = ("data=noisy_digits", "task=regression", "model=plain_restorer20")
    with pytest.raises(InputError, match=rf"model\.depth={depth}: the depth must be 2n\+2"):
        compose_config(*restoring, f"model.depth={depth}")


def test_only_the_last_convolution_trains_behind_a_frozen_backbone(compose_config: Compose, tmp_path: Path) -> None:
    torch.save(Restorer(8, in_channels=1, num_classes=1).state_dict(), tmp_path / "w.pt")
    restoring = ("data=noisy_digits", "task=regression", "model=residual_restorer20", "model.depth=8")
    config = compose_config(*restoring, f"model.weights={tmp_path / 'w.pt'}", "model.freeze=backbone")
    module = build_module(config, build_network(config, ImageSpec(8, 8, 1), 1), 1)
    trains = [name for name, value in module.network.named_parameters() if value.requires_grad]
    assert trains == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model=plain_restorer20",), r"it returns images, and task=classification on data=digits needs vectors"),
        (("data=noisy_digits", "task=regression"), r"it returns vectors, .* needs images"),
        (("data=noisy_digits", "model=plain_restorer20"), r"it learns classes, and data=noisy_digits has images"),
        (("task=regression",), r"it learns numbers or images, and data=digits has classes"),
    ],
)
def test_a_network_that_does_not_fit_the_task_is_refused_before_anything_starts(
    compose_config: Compose, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compose_config("model=resnet20", *overrides)
