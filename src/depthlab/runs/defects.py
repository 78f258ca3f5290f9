"""Defects of a network: where what it computes is not what its spec declares, found by probing it with a batch.

The probes need no second network to compare with. A ReLU shows in the signs of what the next layer receives, a shortcut
in whether a block's output still depends on its input when the convolutions of its branch are zero.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depthlab.models import freeze
from depthlab.models.freezing import streams

# From one layer with weights to the next the gradient's norm changes by at most 13.4 in any network of the project at
# its initialisation (densenet121), and by 10.8 in resnet110. Well beyond that it is one layer that scales it.
LARGEST_JUMP = 100.0
# Wide plain networks with batch norm grow by sqrt(pi / (pi - 1)) = 1.21 a layer (Yang et al. 2019); a bottleneck has
# three layers to one 3x3 convolution and reaches 1.30. Growth that plain networks have is a finding, not a defect.
LARGEST_GROWTH = 1.5
FEWEST_LAYERS = 8  # to fit a growth that is judged
NEAR_OVERFLOW = 1e30  # of float32, which ends at 3e38: a gradient that reached it layer by layer, as in plain1202
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


def blocks_of(network: nn.Module) -> dict[str, nn.Module]:
    """The children of all stages, by name."""
    return {
        f"{prefix}{stage}.{name}": block
        for prefix, stream in streams(network).items()
        for stage in getattr(stream, "stage_names", ())
        for name, block in stream.get_submodule(stage).named_children()
    }


def is_layer(module: nn.Module) -> bool:
    """Whether a module multiplies by weights."""
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


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


def static_defects(subject: Subject) -> list[Defect]:
    """What shows without a forward pass: frozen tensors, zeros, batch norm, the classifier's width."""
    return [*_frozen(subject), *_zero_weights(subject.network), *_norms(subject.network), *_widths(subject)]


def _frozen(subject: Subject) -> Iterator[Defect]:
    expected = copy.deepcopy(subject.network).requires_grad_(True)
    freeze(expected, subject.freeze)
    wanted = {name: parameter.requires_grad for name, parameter in expected.named_parameters()}
    for name, parameter in subject.network.named_parameters():
        if wanted[name] and not parameter.requires_grad:
            yield Defect("frozen tensor", name, f"{name} does not train, and model.freeze={subject.freeze}")
        elif parameter.requires_grad and not wanted[name]:
            yield Defect("frozen tensor", name, f"{name} trains, although model.freeze={subject.freeze}")


def _zero_weights(network: nn.Module) -> Iterator[Defect]:
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


def traced_defects(subject: Subject, found: Trace, known: list[Defect]) -> list[Defect]:
    """What one forward pass shows: the outputs' width, dead layers, missing ReLUs, shortcuts."""
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


def _stream_of(network: nn.Module, name: str) -> Any:
    return next(stream for prefix, stream in streams(network).items() if name.startswith(prefix))


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


def gradient_defects(subject: Subject, gradients: dict[str, Tensor | None], known: list[Defect]) -> list[Defect]:
    """Tensors that no gradient reaches, or nothing but zeros."""
    missing = [name for name, gradient in gradients.items() if gradient is None]
    values = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    defects = [*_unreached(subject, missing)]
    if not known and not defects:
        defects += [
            Defect("zero gradient", name, f"the gradient of {name} is exactly zero")
            for name, gradient in values.items()
            if not gradient.any()
        ]
    return defects


def _unreached(subject: Subject, names: list[str]) -> Iterator[Defect]:
    """A defect for each stream that no gradient reaches, and one for all other tensors of a kind."""
    rest = list(names)
    for prefix in streams(subject.network):
        own = [
            name for name, each in subject.network.named_parameters() if name.startswith(prefix) and each.requires_grad
        ]
        if prefix and own and set(own) <= set(rest):
            rest = [name for name in rest if name not in own]
            text = f"no gradient reaches any of the {len(own)} tensors of {prefix.rstrip('.')}"
            if _matters(subject, own):
                yield Defect("detached branch", prefix.rstrip("."), f"{text}, and the output depends on them")
            else:
                yield Defect("stream not connected", prefix.rstrip("."), f"{text}; the output does not depend on them")
    for kind, does_matter in (("detached branch", True), ("unused tensor", False)):
        group = [name for name in rest if _matters(subject, [name]) is does_matter]
        if group:
            depends = "depends" if does_matter else "does not depend"
            shown = ", ".join(group[:3]) + (f" and {len(group) - 3} more" if len(group) > 3 else "")
            text = f"no gradient reaches {shown}; the output {depends} on {'them' if len(group) > 1 else 'it'}"
            yield Defect(kind, _common_module(group), text)


def _common_module(names: list[str]) -> str:
    """The innermost module that holds all of the tensors; where none does, that of the last one."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    common = [words[0] for words in takewhile(lambda words: len(set(words)) == 1, columns)]
    return ".".join(common or names[-1].split(".")[:-1]) or names[-1]


def _matters(subject: Subject, names: list[str]) -> bool:
    """Whether the outputs change when the tensors are changed."""
    changed = dict(subject.network.named_parameters())
    generator = torch.Generator().manual_seed(0)
    state = {name: changed[name].detach().clone() for name in names}
    with torch.no_grad():
        before = subject.network(subject.images)
        for name in names:
            changed[name].add_(torch.randn(changed[name].shape, generator=generator))
        after = subject.network(subject.images)
        for name, value in state.items():
            changed[name].copy_(value)
    return not torch.equal(before, after)


def growth_defects(names: list[str], norms: list[float], growth: float | None) -> list[Defect]:
    """Gradients that one layer scales, or that grow faster than theory has it for plain networks.

    Args:
        names: layers with weights in forward order.
        norms: the norms of their weights' gradients.
        growth: the fitted factor a layer towards the input.
    """
    pairs = list(zip(names, norms, strict=True))
    finite = [(name, norm) for name, norm in pairs if 0 < norm < math.inf]
    for (one, early), (other, late) in pairwise(finite):
        jump = max(late / early, early / late)
        if jump > LARGEST_JUMP:
            text = f"between {one} and {other} its norm changes by a factor of {jump:.3g}"
            return [Defect("exploding gradient", one if early > late else other, text)]
    overflowing = [name for name, norm in pairs if not norm < math.inf]
    if overflowing and max((norm for _, norm in finite), default=0.0) < NEAR_OVERFLOW:
        return [Defect("exploding gradient", overflowing[-1], f"the gradient of {overflowing[-1]} is not finite")]
    if growth is not None and len(names) >= FEWEST_LAYERS and max(growth, 1 / growth) > LARGEST_GROWTH:
        return [Defect("exploding gradient", "the whole network", f"its norm changes by {growth:.3g} a layer")]
    return []
