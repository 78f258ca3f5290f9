"""Activation checkpointing: the same numbers to the bit, statistics counted once, less kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthlab.models import cifar_net, densenet, freeze
from depthlab.models.counter_rng import as_in_training

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "basic": partial(cifar_net, 20),
    "bottleneck": partial(cifar_net, 20, block="bottleneck", preactivation=True, shortcut="B"),
    "stochastic": partial(cifar_net, 20, stochastic_depth=0.5, dropout=0.3),
    "densenet": partial(
        densenet, growth_rate=4, block_config=(2, 3), num_init_features=8, stem="small", num_classes=10
    ),
}
DTYPES = [torch.float32, torch.bfloat16]


def three_steps(build: Callable[..., nn.Module], dtype: torch.dtype, **arguments: Any) -> dict[str, Tensor]:
    """Weights and buffers after three steps with accumulated gradients, and the last gradients."""
    torch.manual_seed(0)
    network = build(**arguments)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    images = torch.randn(3, 2, 8, 3, 8, 8)
    for step in images:
        optimizer.zero_grad()
        for part in step:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                scores = network(part)
            nn.functional.cross_entropy(scores.float(), torch.arange(8)).backward()
        optimizer.step()
    found = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return found | {f"{name}.grad": p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_results_are_the_same_to_the_bit_with_running_statistics(name: str, dtype: torch.dtype) -> None:
    kept = three_steps(NETWORKS[name], dtype)
    recomputed = three_steps(NETWORKS[name], dtype, activation_checkpointing=True)
    assert kept.keys() == recomputed.keys()
    assert all(torch.equal(kept[key], recomputed[key]) for key in kept)
    counts = [value for key, value in recomputed.items() if key.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {6}


def bytes_kept(network: nn.Module) -> int:
    """What a forward pass leaves for the gradient."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(torch.randn(2, 3, 16, 16))
    return sum(sizes)


def test_a_forward_pass_keeps_a_fraction_of_the_activations() -> None:
    kept, recomputed = (bytes_kept(cifar_net(56, activation_checkpointing=value)) for value in (False, True))
    assert recomputed < 0.1 * kept


def test_frozen_parts_stay_as_they_are() -> None:
    network = cifar_net(8, activation_checkpointing=True)
    freeze(network, "until:layer2")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    after = network.state_dict()
    assert torch.equal(before["layer2.0.bn1.running_mean"], after["layer2.0.bn1.running_mean"])
    assert not torch.equal(before["layer3.0.bn1.running_mean"], after["layer3.0.bn1.running_mean"])


def test_measurements_on_the_side_neither_recompute_nor_draw() -> None:
    network = cifar_net(8, dropout=0.5, stochastic_depth=0.5, activation_checkpointing=True).eval()
    with as_in_training(network):
        assert network.training
        assert not network.activation_checkpointing
        assert network.noise is not None
        assert not network.noise.training
    assert network.activation_checkpointing
    assert not network.training
