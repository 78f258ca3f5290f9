"""Defects that the gradients of a batch show: tensors that none reaches, zeros, and explosions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise, takewhile

import torch
from torch import Tensor

from depthlab.models.freezing import streams
from depthlab.runs.defects import Defect, Subject

# From one layer with weights to the next the gradient's norm changes by at most 13.4 in any network of the project at
# its initialisation (densenet121), and by 10.8 in resnet110. Well beyond that it is one layer that scales it.
LARGEST_JUMP = 100.0
# Wide plain networks with batch norm grow by sqrt(pi / (pi - 1)) = 1.21 a layer (Yang et al. 2019); a bottleneck has
# three layers to one 3x3 convolution and reaches 1.30. Growth that plain networks have is a finding, not a defect.
LARGEST_GROWTH = 1.5
FEWEST_LAYERS = 8  # to fit a growth that is judged
NEAR_OVERFLOW = 1e30  # of float32, which ends at 3e38: a gradient that reached it layer by layer, as in plain1202


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
