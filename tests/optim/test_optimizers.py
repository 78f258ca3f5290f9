"""One and two updates by hand, and which parameters decay."""

from __future__ import annotations

import pytest
import torch
from depthlab.optim.optimizers import OPTIMIZERS, build_adamw, build_sgd, parameter_groups
from torch import Tensor, nn

from depthlab.models import cifar_net

GRADIENTS = (torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 3.0]]))


def weights_after(optimizer_of: str, **arguments: object) -> list[Tensor]:
    """The weights of a 2-to-1 linear layer before and after two updates by GRADIENTS."""
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    optimizer = OPTIMIZERS[optimizer_of](layer, fused=False, **arguments, decay_norm_and_bias=True)
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
    "optimizer",
    [
        build_sgd(nn.Linear(2, 2), False, 0.3, 0.9, False, 0.01, False),
        build_adamw(nn.Linear(2, 2), False, 0.3, 0.9, 0.999, 1e-8, 0.01, False),
    ],
)
def test_groups_reach_the_optimiser(optimizer: torch.optim.Optimizer) -> None:
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.3}
