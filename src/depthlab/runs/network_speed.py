"""The speed and memory of networks beside each other: measured in turns, so that a slow moment affects all of them."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from depthlab.models import count_params
from depthlab.models.counts import count_kept_bytes
from depthlab.runs.defects import Subject

TURNS = 5  # of timing; the median counts


@dataclass(frozen=True)
class Compared:
    """A network for the table of speed and memory, and its multiply-adds for one image."""

    name: str
    network: nn.Module
    num_macs: int


def speed_rows(compared: Sequence[Compared], subject: Subject) -> list[dict[str, Any]]:
    """Milliseconds and MiB of each network for the batch, measured in turns."""
    copies = {each.name: copy.deepcopy(each.network).train() for each in compared}
    num_macs = {each.name: each.num_macs for each in compared}
    forward: dict[str, list[float]] = {name: [] for name in copies}
    whole: dict[str, list[float]] = {name: [] for name in copies}
    for turn in range(TURNS + 1):
        for name, network in copies.items():
            started = time.perf_counter()
            with torch.no_grad():
                network(subject.images)
            passed = time.perf_counter()
            _backward(subject, network)
            if turn:  # the first one warms up
                forward[name].append(1000 * (passed - started))
                whole[name].append(1000 * (time.perf_counter() - passed))
    return [
        {
            "network": name,
            "num_params": count_params(network),
            "num_macs": num_macs[name],
            "forward_ms": statistics.median(forward[name]),
            "step_ms": statistics.median(whole[name]),
            "params_mib": sum(each.nbytes for each in network.parameters()) / 2**20,
            "kept_mib": count_kept_bytes(network, subject.images) / 2**20,
        }
        for name, network in copies.items()
    ]


def _backward(subject: Subject, network: nn.Module) -> None:
    loss = subject.loss_of(network(subject.images))
    if loss.requires_grad:
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)
