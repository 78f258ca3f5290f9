"""How large a network is and how much it computes."""

from __future__ import annotations

import copy

import torch
from torch import nn
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
