"""The networks, in torch alone: `from depthlab.models import resnet56` needs neither Hydra nor Lightning."""

from collections.abc import Callable
from functools import partial

from torch import nn

from depthlab.models.blocks import BasicBlock, ZeroPadShortcut
from depthlab.models.counts import count_macs, count_params
from depthlab.models.resnet import ResNet, cifar_net

plain20 = partial(cifar_net, 20, False)
plain32 = partial(cifar_net, 32, False)
plain44 = partial(cifar_net, 44, False)
plain56 = partial(cifar_net, 56, False)
plain110 = partial(cifar_net, 110, False)
plain1202 = partial(cifar_net, 1202, False)
resnet20 = partial(cifar_net, 20, True)
resnet32 = partial(cifar_net, 32, True)
resnet44 = partial(cifar_net, 44, True)
resnet56 = partial(cifar_net, 56, True)
resnet110 = partial(cifar_net, 110, True)
resnet1202 = partial(cifar_net, 1202, True)

# What `model.family` may say: the function that builds it from the group's other keys. A configuration names a
# family, never Python code, so that a run directory from a stranger builds one of these or nothing.
FAMILIES: dict[str, Callable[..., nn.Module]] = {"cifar": cifar_net}

__all__ = [
    "FAMILIES",
    "BasicBlock",
    "ResNet",
    "ZeroPadShortcut",
    "cifar_net",
    "count_macs",
    "count_params",
    "plain20",
    "plain32",
    "plain44",
    "plain56",
    "plain110",
    "plain1202",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet1202",
]
