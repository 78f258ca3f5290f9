"""How large a network is and how much it computes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_params(network: nn.Module) -> int:
    """The number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of convolutions and linear layers for one image of (channels, height, width).

    Counted on the meta device: nothing is computed. torch counts two operations to a multiply-add.
    """
    on_meta = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(torch.empty(1, *image_shape, device="meta"))
    return int(counter.get_total_flops()) // 2


def count_by_layer(network: nn.Module, image_shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Each module with parameters of its own, in the order of computation, for one image of (channels, height, width).

    A dict a module: "layer", "kind", "output" (shape without the batch), "num_params", "num_macs".
    """
    on_meta = copy.deepcopy(network).to("meta").eval()
    names = {module: name for name, module in on_meta.named_modules() if any(True for _ in module.parameters(False))}
    rows: dict[str, dict[str, Any]] = {}

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        num_params = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        row = {"layer": names[module], "kind": type(module).__name__, "output": list(output.shape[1:])}
        rows[names[module]] = {**row, "num_params": num_params, "num_macs": 0}

    for module in names:
        module.register_forward_hook(after)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(torch.empty(1, *image_shape, device="meta"))
    for path, counts in counter.get_flop_counts().items():
        name = path.partition(".")[2]
        if name in rows:
            rows[name]["num_macs"] = int(sum(counts.values())) // 2  # two operations to a multiply-add
    return list(rows.values())


def count_kept_bytes(network: nn.Module, images: Tensor) -> int:
    """The tensors, other than parameters, that autograd saves in a forward pass for the gradient."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = network(images)
    del outputs
    return sum(size for pointer, size in kept.items() if pointer not in own)
