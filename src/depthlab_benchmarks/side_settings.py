"""What the sides of a comparison differ in besides their code: precision, TF32, memory format, optimiser."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer


def describe_side(network: nn.Module, optimizer: Optimizer, precision: str, device: torch.device) -> str:
    """The settings that decide about speed, as they are in the objects that train.

    Args:
        network: on its device.
        optimizer: of its parameters.
        precision: Lightning's name of it, such as "32-true".
        device: where the steps run.
    """
    return ", ".join((precision, _tf32(device), _memory_format(network), _update(optimizer, device)))


def _tf32(device: torch.device) -> str:
    if device.type != "cuda":
        return "no TF32"
    kinds = {"convolutions": torch.backends.cudnn.allow_tf32, "matrix products": torch.backends.cuda.matmul.allow_tf32}
    used = [kind for kind, is_used in kinds.items() if is_used]
    return f"TF32 {' and '.join(used)}" if used else "no TF32"


def _memory_format(network: nn.Module) -> str:
    is_last = any(weight.ndim == 4 and not weight.is_contiguous() for weight in network.parameters())
    return "channels last" if is_last else "contiguous"


def _update(optimizer: Optimizer, device: torch.device) -> str:
    """torch updates all parameters together (foreach) on a GPU unless one of the two flags is set."""
    fused, foreach = optimizer.defaults.get("fused"), optimizer.defaults.get("foreach")
    together = foreach or (foreach is None and fused is None and device.type == "cuda")
    kind = "fused" if fused else "foreach" if together else "one tensor at a time"
    return f"{type(optimizer).__name__} {kind}"
