"""One and two updates by hand, and which parameters decay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from depthlab.config.registry import lookup
from depthlab.models import cifar_net
from depthlab.optim.parameter_groups import parameter_groups
from depthlab.optim.spec import OptimizerSpec

from ..conftest import Compose

GRADIENTS = (torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 3.0]]))


def build(name: str, network: nn.Module, **keys: object) -> torch.optim.Optimizer:
    """The optimiser that the configuration `optimizer=name` with these keys makes for a network."""
    spec = lookup("optimizer", name)(**keys)
    assert isinstance(spec, OptimizerSpec)
    groups = parameter_groups(network, spec.weight_decay, spec.decay_norm_and_bias, spec.backbone_lr_factor)
    return spec.build(groups, fused=False)


def weights_after(optimizer_of: str, **arguments: object) -> list[Tensor]:
    """The weights of a 2-to-1 linear layer before and after two updates by GRADIENTS."""
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    optimizer = build(optimizer_of, layer, **arguments, decay_norm_and_bias=True)
    weights = [layer.weight.detach().clone()]
    for gradient in GRADIENTS:
        layer.weight.grad = gradient.clone()
        optimizer.step()
        weights.append(layer.weight.detach().clone())
    return weights


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "nesterov"),
    [(0.9, 0.1, False), (0.9, 0.0, False), (0.0, 0.1, False), (0.9, 0.1, True)],
)
def test_sgd_has_momentum_and_weight_decay_in_the_gradient(
    momentum: float, weight_decay: float, nesterov: bool
) -> None:
    before, first, second = weights_after(
        "sgd", lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    gradient = GRADIENTS[0] + weight_decay * before
    velocity = gradient
    assert torch.allclose(first, before - 0.1 * (gradient + momentum * velocity if nesterov else velocity))
    gradient = GRADIENTS[1] + weight_decay * first
    velocity = momentum * velocity + gradient
    assert torch.allclose(second, first - 0.1 * (gradient + momentum * velocity if nesterov else velocity))


def test_adamw_decays_the_weights_apart_from_the_gradient() -> None:
    beta1, beta2, eps, lr, decay = 0.8, 0.95, 1e-3, 0.1, 0.2
    weights = weights_after("adamw", lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay)
    mean = square = torch.zeros(1, 2)
    expected = weights[0]
    for step, gradient in enumerate(GRADIENTS, start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        update = mean / (1 - beta1**step) / ((square / (1 - beta2**step)).sqrt() + eps)
        expected = expected - lr * decay * expected - lr * update
        assert torch.allclose(weights[step], expected)


def test_everything_decays_as_in_the_paper() -> None:
    network = cifar_net(8)
    (group,) = parameter_groups(network, 0.1, decay_norm_and_bias=True)
    assert group["weight_decay"] == 0.1
    assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}


def test_norms_and_biases_can_be_spared() -> None:
    network = cifar_net(8, shortcut="B")
    decayed, spared = parameter_groups(network, 0.1, decay_norm_and_bias=False)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert {id(p) for p in decayed["params"]} == {id(layer.weight) for layer in layers}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("sgd", {"momentum": 0.9, "nesterov": False}),
        ("adamw", {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    ],
)
def test_groups_reach_the_optimiser(name: str, keys: dict[str, object]) -> None:
    optimizer = build(name, nn.Linear(2, 2), lr=0.3, weight_decay=0.01, decay_norm_and_bias=False, **keys)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.3}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0001, "decay_norm_and_bias": True}),
        ("adamw", {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.05}),
    ],
)
def test_options_have_the_defaults_that_their_files_had(
    compose_config: Compose, name: str, expected: dict[str, object]
) -> None:
    config = compose_config(f"optimizer={name}")
    found = config.optimizer.values()
    assert found | expected == found
    assert found["decay_norm_and_bias"] is (name == "sgd")


def test_the_backbone_gets_a_part_of_the_rate_and_the_classifier_all_of_it() -> None:
    network = cifar_net(8)
    optimizer = build("sgd", network, lr=0.2, backbone_lr_factor=0.1)
    slow, full = optimizer.param_groups
    assert slow["lr_factor"] == 0.1
    assert "lr_factor" not in full
    assert {id(p) for p in full["params"]} == {id(p) for p in network.fc.parameters()}
