"""Dropout, stochastic depth, activation checkpointing: what is dropped, and that recomputing changes no bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthlab.models import Dense, ResNet, TwoStream, cifar_net, densenet, freeze, wide_net
from depthlab.models.counter_rng import CounterRNG, Dropout, DropPath, as_in_training, keep_probabilities


def noise(seed: int = 0) -> CounterRNG:
    torch.manual_seed(seed)
    return CounterRNG()


def test_uniform_numbers_are_uniform_and_independent_of_each_other() -> None:
    source = noise()
    numbers = torch.stack([source.uniform(layer, 100, 50) for layer in range(4)])
    assert numbers.min() >= 0 and numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.histc(numbers, 10, 0, 1).div(numbers.numel()).sub(0.1).abs().max() < 0.01
    for one, other in (
        (numbers[0], numbers[1]),
        (numbers[:, 1:], numbers[:, :-1]),
        (numbers[..., 1:], numbers[..., :-1]),
    ):
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].abs() < 0.03


def test_numbers_follow_from_seed_batch_layer_and_position() -> None:
    first, again, other = noise(), noise(), noise(seed=1)
    assert torch.equal(first.uniform(3, 8, 5), again.uniform(3, 8, 5))
    assert torch.equal(first.uniform(3, 8, 5)[:4], first.uniform(3, 4, 5))
    assert not torch.equal(first.uniform(3, 8), first.uniform(4, 8))
    assert not torch.equal(first.uniform(3, 8), other.uniform(3, 8))
    before = first.uniform(3, 8)
    first.begin_batch()
    assert not torch.equal(first.uniform(3, 8), before)


def test_processes_share_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = noise().uniform(0, 8)
    monkeypatch.setattr("depthlab.models.counter_rng._rank", lambda: 1)
    assert torch.equal(noise().uniform(0, 4), whole[4:])


def test_the_linear_rule_is_that_of_the_paper() -> None:
    # Huang et al. 2016: p_l = 1 - l/L (1 - p_L); 54 blocks and p_L = 0.5 in their ResNet-110.
    probabilities = keep_probabilities(54, 0.5)
    assert (len(probabilities), probabilities[-1]) == (54, 0.5)
    assert probabilities[0] == pytest.approx(1 - 0.5 / 54)
    assert probabilities[26] == pytest.approx(0.75)


def test_stochastic_depth_drops_f_for_whole_images_and_scales_the_others() -> None:
    drop = DropPath(0.6, noise(), 0)
    ratio = drop(torch.ones(2000, 2, 3, 3))
    assert torch.equal(ratio.amin((1, 2, 3)), ratio.amax((1, 2, 3)))
    assert ratio.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert (ratio[:, 0, 0, 0] > 0).float().mean().item() == pytest.approx(0.6, abs=0.04)


def test_a_dropped_block_passes_its_input_on() -> None:
    network = cifar_net(8, stochastic_depth=0.9)
    block = network.get_submodule("layer1.0")
    block.drop_path.keep_probability = 1e-9  # nothing survives
    x = torch.rand(4, 16, 5, 5)
    assert torch.equal(block(x), x)


def test_dropout_zeroes_its_part_and_keeps_the_mean() -> None:
    features = torch.ones(500, 64)
    dropped = Dropout(0.25, noise())(features)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)


BUILDS = {
    "cifar": partial(cifar_net, 8),
    "preactivation": partial(cifar_net, 11, block="bottleneck", preactivation=True),
    "wide": partial(wide_net, 10, 1),
    "dense": partial(Dense, (16,), (8, 8)),
    "densenet": partial(densenet, growth_rate=4, block_config=(2,), num_init_features=8, stem="small", num_classes=10),
}
OPTIONS = [(name, "dropout") for name in BUILDS] + [(name, "stochastic_depth") for name in list(BUILDS)[:3]]


def pair(name: str, option: str) -> tuple[nn.Module, nn.Module]:
    """The network without the regulariser, and with it, from the same seed."""
    torch.manual_seed(0)
    without = BUILDS[name]()
    torch.manual_seed(0)
    return without, BUILDS[name](**{option: 0.5})


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_regulariser_changes_training_and_not_evaluation(name: str, option: str) -> None:
    without, with_it = pair(name, option)
    images = torch.randn(16, 3, 8, 8)
    assert not torch.allclose(without.train()(images), with_it.train()(images), atol=1e-3)
    with_it.load_state_dict(without.state_dict(), strict=False)
    assert torch.equal(without.eval()(images), with_it.eval()(images))
    before = with_it.state_dict()["noise.num_batches"].clone()
    with_it(images)
    assert torch.equal(with_it.state_dict()["noise.num_batches"], before)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_regulariser_leaves_initial_weights_as_they_are(name: str, option: str) -> None:
    without, with_it = (network.state_dict() for network in pair(name, option))
    assert {key for key in with_it if key not in without} == {"noise.key", "noise.num_batches"}
    assert all(torch.equal(value, with_it[key]) for key, value in without.items())


def test_a_regulariser_leaves_the_weights_of_a_second_stream_as_they_are() -> None:
    states = []
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        states.append(TwoStream(partial(cifar_net, 8, dropout=dropout)).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert states[1]["colour.noise.key"] != states[1]["brightness.noise.key"]


def test_masks_go_on_from_a_state_dict_where_they_were() -> None:
    def step(network: ResNet, images: Tensor) -> Tensor:
        loss = F.cross_entropy(network(images), torch.arange(len(images)) % 10)
        network.zero_grad()
        loss.backward()
        return loss.detach()

    torch.manual_seed(0)
    whole = cifar_net(8, dropout=0.5, stochastic_depth=0.5)
    batches = torch.randn(4, 8, 3, 8, 8)
    for images in batches[:2]:
        step(whole, images)
    torch.manual_seed(99)
    continued = cifar_net(8, dropout=0.5, stochastic_depth=0.5)
    continued.load_state_dict(copy.deepcopy(whole.state_dict()))
    torch.rand(7)  # torch's generator has no part in it
    assert all(torch.equal(step(whole, images), step(continued, images)) for images in batches[2:])


def test_every_block_has_its_own_probability_and_draw() -> None:
    network = cifar_net(20, stochastic_depth=0.5)
    drops = [module for module in network.modules() if isinstance(module, DropPath)]
    assert [drop.keep_probability for drop in drops] == keep_probabilities(9, 0.5)
    assert [drop.layer for drop in drops] == list(range(9))


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
