"""The parameters of a network in the groups that an optimiser takes."""

from __future__ import annotations

from typing import Any

from torch import nn

from depthlab.errors import InputError
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
    if not classifier:
        raise InputError(
            f"optimizer.backbone_lr_factor={backbone_lr_factor}: {type(network).__name__} does not say which part is "
            "its classifier. Give the class an attribute classifier_name."
        )
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
