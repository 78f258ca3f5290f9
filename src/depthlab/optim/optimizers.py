"""Optimisers and their parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from depthlab.models.freezing import classifier_prefixes


def parameter_groups(
    network: nn.Module, weight_decay: float, decay_norm_and_bias: bool, backbone_lr_factor: float = 1.0
) -> list[dict[str, Any]]:
    """The parameters that train, those without weight decay and those with a rate of their own in groups apart.

    The paper speaks of one weight decay and names no exception; many recipes spare batch norm and biases,
    which are the parameters with one dimension. `lr_factor` multiplies the schedule's rate for a group: it is
    `backbone_lr_factor` for everything but the classifier (Howard and Ruder 2018, discriminative fine-tuning).
    """
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    if backbone_lr_factor == 1:
        return _by_decay([parameter for _, parameter in named], weight_decay, decay_norm_and_bias)
    classifier = classifier_prefixes(network)
    backbone = [parameter for name, parameter in named if not name.startswith(classifier)]
    others = [parameter for name, parameter in named if name.startswith(classifier)]
    slow = _by_decay(backbone, weight_decay, decay_norm_and_bias)
    return [
        *({**group, "lr_factor": backbone_lr_factor} for group in slow),
        *_by_decay(others, weight_decay, decay_norm_and_bias),
    ]


def _by_decay(parameters: list[nn.Parameter], weight_decay: float, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    if decay_norm_and_bias:
        return [{"params": parameters, "weight_decay": weight_decay}]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def build_sgd(
    network: nn.Module,
    fused: bool | None,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_norm_and_bias: bool,
    backbone_lr_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent; the decay is part of the gradient, as in the paper."""
    groups = parameter_groups(network, weight_decay, decay_norm_and_bias, backbone_lr_factor)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)


def build_adamw(
    network: nn.Module,
    fused: bool | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decay_norm_and_bias: bool,
    backbone_lr_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    groups = parameter_groups(network, weight_decay, decay_norm_and_bias, backbone_lr_factor)
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, fused=fused)


# What `optimizer.name` may say. `fused` updates all parameters in one kernel; None
# leaves the choice to torch, which updates them together (foreach) on a GPU.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": build_sgd, "adamw": build_adamw}
