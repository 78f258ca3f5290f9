"""How large the gradients of a network are, how they grow over its layers, and how far one step moves each tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from depthlab.models.freezing import streams
from depthlab.runs.defects import Subject
from depthlab.runs.forward_defects import Trace
from depthlab.training.callbacks.gradient_norms import probed_layers
from depthlab.training.module import SupervisedModule

# The largest norm of a tensor's gradient over the smallest. Residual networks of basic blocks have 44 to 738 here at
# their initialisation, up to 110 layers. Beyond 2^24, updates of the one tensor are lost in float32 at a rate at which
# those of the other are as large as its weights.
EVEN_RATIO = 1e3
FLOAT32_RATIO = 2.0**24
# Growth of the gradient from the last layer to the first: the paper's schedule divides its rate by 10 at a time, so
# that layers which differ by less want the same rate.
STEADY_GROWTH = 10.0


def gradients_of(subject: Subject) -> dict[str, Tensor | None]:
    """The gradient of every tensor that trains; None where none reaches it."""
    trained = {name: each for name, each in subject.network.named_parameters() if each.requires_grad}
    loss = subject.loss_of(subject.network(subject.images))
    if not loss.requires_grad:
        return dict.fromkeys(trained)
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values()), allow_unused=True), strict=True))


def gradient_summary(network: nn.Module, passed: Trace, gradients: dict[str, Tensor | None]) -> dict[str, Any]:
    """The extremes of the tensors' gradients, and for each stream the growth from its last layer to its first."""
    norms = {name: _norm(each) for name, each in gradients.items() if each is not None}
    alive = {name: norm for name, norm in norms.items() if 0 < norm < math.inf}
    weights = {call.name: norms.get(f"{call.name}.weight") for call in passed.calls if "downsample" not in call.name}
    found: dict[str, Any] = {"streams": []}
    for prefix, stream in streams(network).items():
        path = [(n, norm) for n, norm in weights.items() if norm is not None and n.startswith(prefix)]
        fitted = [norms.get(f"{prefix}{name}.weight", 0.0) for name in probed_layers(stream)]
        names, values = [name for name, _ in path], [norm for _, norm in path]
        found["streams"].append({"stream": prefix.rstrip("."), "layers": names, "norms": values, **_growth(fitted)})
    if alive:
        least, most = min(alive, key=alive.__getitem__), max(alive, key=alive.__getitem__)
        ratio = alive[most] / alive[least]
        found |= {"smallest": [least, alive[least]], "largest": [most, alive[most]], "ratio": ratio}
        words = ("even", EVEN_RATIO), ("uneven", FLOAT32_RATIO), ("beyond float32", math.inf)
        found["verdict"] = next(word for word, limit in words if ratio < limit)
    return found


def _growth(norms: list[float]) -> dict[str, Any]:
    """A line through the logarithms of the finite norms: the factor a layer towards the input, and over all layers."""
    finite = [(place, math.log(norm)) for place, norm in enumerate(norms) if 0 < norm < math.inf]
    if len(finite) < 3:
        return {"growth": None, "total": None, "fitted_layers": len(finite), "verdict": "not fitted"}
    places, logs = zip(*finite, strict=True)
    growth = math.exp(-np.polyfit(places, logs, 1)[0])
    total = growth ** (len(finite) - 1)
    verdict = "grows towards the input" if total > STEADY_GROWTH else "steady"
    verdict = "shrinks towards the input" if total < 1 / STEADY_GROWTH else verdict
    verdict = verdict if all(norm < math.inf for norm in norms) else "overflows float32 on its way to the input"
    return {"growth": growth, "total": total, "fitted_layers": len(finite), "verdict": verdict}


def tensor_rows(module: SupervisedModule, gradients: dict[str, Tensor | None]) -> list[dict[str, Any]]:
    """Every tensor with its gradient's norm and how far one step of the configured optimiser moves it."""
    named = dict(module.network.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    optimizer = module.configure_optimizers()
    for group in optimizer.param_groups:
        group["lr"] = module.schedule(0) * group.get("lr_factor", 1.0)
    for name, gradient in gradients.items():
        named[name].grad = gradient
    optimizer.step()
    rows = []
    for name, parameter in named.items():
        gradient, change = gradients.get(name), parameter.detach() - before[name]
        row = {"tensor": name, "shape": list(parameter.shape), "num_values": parameter.numel()}
        measured = {"gradient": None if gradient is None else _norm(gradient), "moved": bool(change.any())}
        rows.append({**row, "trains": parameter.requires_grad, **measured, "step": _norm(change)})
    return rows


def _norm(values: Tensor) -> float:
    """The L2 norm, in float64: its squares overflow float32 long before the values do."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))
