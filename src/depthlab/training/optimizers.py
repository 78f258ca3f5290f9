"""Optimisers and their parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def parameter_groups(network: nn.Module, weight_decay: float, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """The network's parameters, those without weight decay in a group of their own.

    The paper speaks of one weight decay and names no exception; many recipes spare batch norm and biases,
    which are the parameters with one dimension.
    """
    if decay_norm_and_bias:
        return [{"params": list(network.parameters()), "weight_decay": weight_decay}]
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def build_sgd(
    network: nn.Module,
    fused: bool,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_norm_and_bias: bool,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent; the decay is part of the gradient, as in the paper."""
    groups = parameter_groups(network, weight_decay, decay_norm_and_bias)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)


def build_adamw(
    network: nn.Module,
    fused: bool,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decay_norm_and_bias: bool,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    groups = parameter_groups(network, weight_decay, decay_norm_and_bias)
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, fused=fused)


# What `optimizer.name` may say. `fused` updates all parameters in one kernel.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": build_sgd, "adamw": build_adamw}
