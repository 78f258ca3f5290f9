"""Defects of a network: where what it computes is not what its spec declares, found by probing it with a batch.

The probes need no second network to compare with. Here: what a defect is, what is probed, and the defects that show
without a forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depthlab.models import freeze
from depthlab.models.freezing import streams

# Moving variances of trained networks of the project stay below a few thousand; float32 keeps 7 digits.
LARGEST_VARIANCE = 1e8

KINDS = {
    "frozen tensor": "a tensor does not train although the configuration freezes nothing there, or the reverse",
    "dead layer": "a layer gives zero for every image of the batch",
    "missing ReLU": "negative values arrive where the network declares a ReLU before",
    "dropped shortcut": "a block of a residual network does not pass its input on",
    "undeclared shortcut": "a block of a plain network passes its input on",
    "stream not connected": "the output does not depend on a stream",
    "batch norm without scale": "its scale is missing or zero",
    "exploded batch norm": "its moving statistics are infinite or huge",
    "not a number": "a tensor or the output holds NaN or infinities",
    "weights at zero": "all weights of a layer are zero",
    "detached branch": "the output depends on tensors that no gradient reaches",
    "unused tensor": "the output does not depend on tensors that train",
    "zero gradient": "the gradient of a tensor is exactly zero",
    "exploding gradient": "the gradient is infinite, jumps between two layers or grows faster than in a plain network",
    "wrong width": "the number of outputs is not what the data ask for",
}


@dataclass(frozen=True)
class Defect:
    """What is wrong (one of `KINDS`), in which module or tensor, in a sentence."""

    kind: str
    where: str
    text: str


@dataclass(frozen=True)
class Subject:
    """A network in training mode without random masks, what its configuration declares, and a batch.

    `residual` and `freeze` are the spec's; `residual` is None where the spec says nothing of blocks. `loss_of` maps
    outputs to the mean loss of the batch.
    """

    network: nn.Module
    residual: bool | None
    freeze: str
    num_outputs: int
    images: Tensor
    loss_of: Callable[[Tensor], Tensor]


def is_layer(module: nn.Module) -> bool:
    """Whether a module multiplies by weights."""
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def static_defects(subject: Subject) -> list[Defect]:
    """What shows without a forward pass: frozen tensors, zeros, batch norm, the classifier's width."""
    return [*_frozen(subject), *_values(subject.network), *_norms(subject.network), *_widths(subject)]


def _frozen(subject: Subject) -> Iterator[Defect]:
    expected = copy.deepcopy(subject.network).requires_grad_(True)
    freeze(expected, subject.freeze)
    wanted = {name: parameter.requires_grad for name, parameter in expected.named_parameters()}
    for name, parameter in subject.network.named_parameters():
        if wanted[name] and not parameter.requires_grad:
            yield Defect("frozen tensor", name, f"{name} does not train, and model.freeze={subject.freeze}")
        elif parameter.requires_grad and not wanted[name]:
            yield Defect("frozen tensor", name, f"{name} trains, although model.freeze={subject.freeze}")


def _values(network: nn.Module) -> Iterator[Defect]:
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            yield Defect("not a number", name, f"{name} holds NaN or infinities")
    for name, module in network.named_modules():
        if is_layer(module) and not module.get_parameter("weight").any():
            yield Defect("weights at zero", name, f"every weight of {name} is zero")


def _norms(network: nn.Module) -> Iterator[Defect]:
    for name, module in network.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        if module.weight is None or not module.weight.any():
            what = "has no scale" if module.weight is None else "multiplies by zero"
            yield Defect("batch norm without scale", name, f"{name} {what}")
        if module.running_var is not None and not float(module.running_var.max()) < LARGEST_VARIANCE:
            largest = float(module.running_var.max())
            yield Defect("exploded batch norm", name, f"the largest moving variance of {name} is {largest:.3g}")


def _widths(subject: Subject) -> Iterator[Defect]:
    for prefix, stream in streams(subject.network).items():
        name = getattr(stream, "classifier_name", None)
        layer: Any = stream.get_submodule(name) if name else None
        width = getattr(layer, "out_features", getattr(layer, "out_channels", subject.num_outputs))
        if width != subject.num_outputs:
            text = f"{prefix}{name} has {width} outputs; the data ask for {subject.num_outputs}"
            yield Defect("wrong width", f"{prefix}{name}", text)
