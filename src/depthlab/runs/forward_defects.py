"""Defects that one forward pass of a batch shows: dead layers, missing ReLUs, shortcuts, values that are no numbers.

A ReLU shows in the signs of what the next layer receives, a shortcut in whether a block's output still depends on its
input when the convolutions of its branch are zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depthlab.models.freezing import streams
from depthlab.runs.defects import Defect, Subject, is_layer


@dataclass
class Call:
    """One call of a layer with weights: the smallest value of its input, which inputs are zero for the whole batch."""

    name: str
    module: nn.Module
    smallest: float
    dead: Tensor  # bool (channels,)
    chain: list[str]  # the layers and norms called since the layer before, that one first


@dataclass
class Trace:
    """What one forward pass of the batch shows."""

    outputs: Tensor
    calls: list[Call] = field(default_factory=list)
    block_inputs: dict[str, torch.Size] = field(default_factory=dict)
    block_smallest: dict[str, float] = field(default_factory=dict)


def trace(subject: Subject) -> Trace:
    """One forward pass without gradients, and what each layer received in it."""
    calls: list[Call] = []
    chain: list[str] = []
    found = Trace(torch.empty(0), calls)

    def before(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if chain and _stream_of(subject.network, name) is not _stream_of(subject.network, chain[-1]):
            chain.clear()
        if is_layer(module):
            x = inputs[0].detach()
            per_channel = x.transpose(0, 1).flatten(1) if x.dim() != 2 else x.T
            calls.append(Call(name, module, float(x.min()), (per_channel == 0).all(dim=1), list(chain)))
            chain.clear()
        chain.append(name)

    def after(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.block_inputs[name] = inputs[0].shape
        found.block_smallest[name] = float(output.min())

    handles = [
        module.register_forward_pre_hook(partial(before, name))
        for name, module in subject.network.named_modules()
        if is_layer(module) or isinstance(module, _BatchNorm)
    ]
    if subject.residual is not None:
        handles += [block.register_forward_hook(partial(after, name)) for name, block in _blocks(subject).items()]
    try:
        with torch.no_grad():
            found.outputs = subject.network(subject.images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _blocks(subject: Subject) -> dict[str, nn.Module]:
    return blocks_of(subject.network) if subject.residual is not None else {}


def blocks_of(network: nn.Module) -> dict[str, nn.Module]:
    """The children of all stages, by name."""
    return {
        f"{prefix}{stage}.{name}": block
        for prefix, stream in streams(network).items()
        for stage in getattr(stream, "stage_names", ())
        for name, block in stream.get_submodule(stage).named_children()
    }


def _stream_of(network: nn.Module, name: str) -> Any:
    return next(stream for prefix, stream in streams(network).items() if name.startswith(prefix))


def traced_defects(subject: Subject, found: Trace, known: list[Defect]) -> list[Defect]:
    """What one forward pass shows: the outputs' width, dead layers, missing ReLUs, shortcuts."""
    if not bool(found.outputs.isfinite().all()):  # nothing that follows could be measured
        is_known = any(defect.kind == "not a number" for defect in known)
        return [] if is_known else [Defect("not a number", "the output", "the outputs hold NaN or infinities")]
    width = found.outputs.shape[1] if found.outputs.dim() > 1 else 0
    defects = []
    if width != subject.num_outputs and not any(defect.kind == "wrong width" for defect in known):
        text = f"the network returns {width} values for an image; the data ask for {subject.num_outputs}"
        defects.append(Defect("wrong width", "the output", text))
    return [
        *defects,
        *_dead(found, {defect.where for defect in known}),
        *_signs(subject, found),
        *_paths(subject, found),
    ]


def _dead(found: Trace, explained: set[str]) -> Iterator[Defect]:
    """Layers whose input is all zero, unless their predecessor received nothing or has another defect."""
    dead = {call.name for call in found.calls if bool(call.dead.all())}
    for call in found.calls:
        if call.name in dead and call.chain and call.chain[0] not in dead and not explained & set(call.chain):
            text = f"nothing but zeros leaves {call.chain[-1]} after its activation: {call.name} receives nothing"
            yield Defect("dead layer", call.chain[-1], text)


def _signs(subject: Subject, found: Trace) -> Iterator[Defect]:
    """Missing ReLUs, by the networks' own declarations (`unrectified`); nothing is said of networks without."""
    bare: set[str] = set()
    for name, smallest in found.block_smallest.items():
        stream = _stream_of(subject.network, name)
        if smallest < 0 and hasattr(stream, "unrectified") and not getattr(stream, "preactivation", False):
            bare.add(name)
            yield Defect("missing ReLU", name, f"negative values (down to {smallest:.3g}) leave {name}")
    first_of: set[int] = set()
    for call in found.calls:
        stream = _stream_of(subject.network, call.name)
        exempt = getattr(stream, "unrectified", None)
        if id(stream) not in first_of:  # it takes the images
            first_of.add(id(stream))
        elif exempt is None or call.name.rpartition(".")[2] in exempt or "downsample" in call.name:
            pass  # a projection takes what its block's first convolution takes
        elif call.smallest < 0 and not any(call.chain[-1].startswith(f"{name}.") for name in bare):
            text = f"negative values (down to {call.smallest:.3g}) arrive at {call.name} from {call.chain[-1]}"
            yield Defect("missing ReLU", call.name, text)


def _paths(subject: Subject, found: Trace) -> Iterator[Defect]:
    """Shortcuts that are not what the spec declares."""
    for name, block in _blocks(subject).items():
        if name not in found.block_inputs:
            continue
        passes = passes_input(block, found.block_inputs[name])
        if subject.residual and not passes:
            text = f"with the convolutions of its branch at zero, {name} gives the same for every input"
            yield Defect("dropped shortcut", name, text)
        elif passes and not subject.residual:
            text = f"with its convolutions at zero, the output of {name} still depends on its input"
            yield Defect("undeclared shortcut", name, text)


def passes_input(block: nn.Module, shape: torch.Size) -> bool:
    """Whether a block's input arrives at its output beside its branch, whose convolutions are set to zero in a copy."""
    probe = copy.deepcopy(block).eval()
    for name, module in probe.named_modules():
        if is_layer(module) and not name.startswith("downsample"):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
    # Large and positive, so that neither a ReLU nor the biases of trained batch norm can hide it.
    generator = torch.Generator().manual_seed(0)
    one, other = (100 * torch.rand((1, *shape[1:]), generator=generator) for _ in range(2))
    with torch.no_grad():
        return not torch.equal(probe(one), probe(other))
