"""The networks by name, in torch alone: `from depthlab.models import resnet56` needs neither Hydra nor Lightning."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from depthlab.models.blocks import BasicBlock, Bottleneck, PreActivationBlock, ZeroPadShortcut
from depthlab.models.counts import count_macs, count_params
from depthlab.models.freezing import freeze
from depthlab.models.fully_connected import Dense
from depthlab.models.resnet import ResNet, cifar_net, imagenet_net, wide_net
from depthlab.models.restorer import Restorer
from depthlab.models.streams import RGBL, TwoStream
from depthlab.models.weights import download_weights, load_weights, read_weights


def densenet(**arguments: Any) -> nn.Module:
    """A `depthlab.models.densenet.DenseNet`; imported with the first one, as torchvision is."""
    from depthlab.models.densely_connected import DenseNet

    return DenseNet(**arguments)


def two_stream(build: Callable[..., nn.Module], **arguments: Any) -> TwoStream:
    """`build` twice, for colour and for brightness; `arguments` are those of one stream but `in_channels`."""
    return TwoStream(partial(build, **arguments))


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

preact_resnet110 = partial(cifar_net, 110, preactivation=True)
preact_resnet164 = partial(cifar_net, 164, shortcut="B", block="bottleneck", preactivation=True)
preact_resnet1001 = partial(cifar_net, 1001, shortcut="B", block="bottleneck", preactivation=True)
wide_resnet16_4 = partial(wide_net, 16, 4)
wide_resnet28_10 = partial(wide_net, 28, 10)
wide_resnet40_4 = partial(wide_net, 40, 4)

plain18 = partial(imagenet_net, 18, False, "A")
plain34 = partial(imagenet_net, 34, False, "A")
resnet18 = partial(imagenet_net, 18)
resnet34 = partial(imagenet_net, 34)
resnet50 = partial(imagenet_net, 50)
resnet101 = partial(imagenet_net, 101)
resnet152 = partial(imagenet_net, 152)
resnext50_32x4d = partial(imagenet_net, 50, groups=32, width_per_group=4)
wide_resnet50_2 = partial(imagenet_net, 50, width_per_group=128)
preact_resnet18 = partial(imagenet_net, 18, preactivation=True)
preact_resnet50 = partial(imagenet_net, 50, preactivation=True)

densenet121 = densenet
densenet_bc100_12 = partial(
    densenet, growth_rate=12, block_config=(16, 16, 16), num_init_features=24, stem="small", num_classes=10
)
plain_restorer20 = partial(Restorer, 20, residual=False)
residual_restorer20 = partial(Restorer, 20)
dense = Dense
two_stream_resnet18 = partial(two_stream, imagenet_net, depth=18)
two_stream_dense = partial(two_stream, Dense)

__all__ = [
    "RGBL",
    "BasicBlock",
    "Bottleneck",
    "Dense",
    "PreActivationBlock",
    "ResNet",
    "Restorer",
    "TwoStream",
    "ZeroPadShortcut",
    "cifar_net",
    "count_macs",
    "count_params",
    "dense",
    "densenet",
    "densenet121",
    "densenet_bc100_12",
    "download_weights",
    "freeze",
    "imagenet_net",
    "load_weights",
    "plain18",
    "plain20",
    "plain32",
    "plain34",
    "plain44",
    "plain56",
    "plain110",
    "plain1202",
    "plain_restorer20",
    "preact_resnet18",
    "preact_resnet50",
    "preact_resnet110",
    "preact_resnet164",
    "preact_resnet1001",
    "read_weights",
    "residual_restorer20",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnet1202",
    "resnext50_32x4d",
    "two_stream",
    "two_stream_dense",
    "two_stream_resnet18",
    "wide_net",
    "wide_resnet16_4",
    "wide_resnet28_10",
    "wide_resnet40_4",
    "wide_resnet50_2",
]
