"""Random masks of regularisers, as a function of (seed, batch, layer, position) like every other draw of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LOW_32_BITS = 0xFFFFFFFF


class CounterRNG(nn.Module):
    """Uniform numbers for the layers of one network, without a generator whose state would have to be kept.

    A number is a hash of four others: `key`, drawn once where the network is built, so that it follows from the
    run's seed; `num_batches`, the training batches seen; the layer; and the position in the batch over all
    processes. Both buffers are part of the network's state, so a checkpoint restores the masks exactly, on any
    device and inside captured steps. In evaluation nothing is drawn and nothing is counted.
    """

    key: Tensor
    num_batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # whatever is drawn after it stays the same with it and without it
            key = torch.randint(LOW_32_BITS, (), dtype=torch.int64)
        self.register_buffer("key", key)
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def begin_batch(self) -> None:
        """Count a training batch. Once a forward pass, outside of what activation checkpointing runs twice."""
        if self.training:
            self.num_batches += 1

    def uniform(self, layer: int, num_images: int, num_values: int = 1) -> Tensor:
        """Float32 (num_images, num_values) in [0, 1): for each image of this process `num_values` numbers."""
        device = self.key.device
        first = _rank() * num_images
        position = torch.arange(first, first + num_images, device=device)[:, None]
        value = torch.arange(num_values, device=device)
        state = _mixed(_mixed(self.key + self.num_batches) + layer)
        hashed = _mixed(_mixed(state + position) + value)
        return (hashed >> 8).float() / 2**24


def _mixed(number: Tensor) -> Tensor:
    """A bijection of 32-bit integers whose output bits depend on every input bit (lowbias32, C. Wellons 2018)."""
    number = number & LOW_32_BITS
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & LOW_32_BITS
    number = ((number ^ (number >> 15)) * 0x846CA68B) & LOW_32_BITS
    return number ^ (number >> 16)


def _rank() -> int:
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


class DropPath(nn.Module):
    """Drops a block's f for some images while training (Huang et al. 2016, "Deep networks with stochastic depth").

    What survives is divided by the survival probability, so that evaluation needs no correction; the paper
    multiplies in evaluation instead, and drops f for a whole batch at once.

    Args:
        keep_probability: the probability that an image keeps its f.
        noise: of the network; not a part of this module, whose state it is not.
        layer: tells the blocks' draws apart.
    """

    def __init__(self, keep_probability: float, noise: CounterRNG, layer: int) -> None:
        super().__init__()
        self.keep_probability = keep_probability
        self.layer = layer
        self._noise = (noise,)

    def forward(self, f: Tensor) -> Tensor:
        """f, of the same shape (N, C, H, W), zero for the images that lose it."""
        (noise,) = self._noise
        if not noise.training:
            return f
        survives = noise.uniform(self.layer, len(f)) < self.keep_probability
        return f * (survives.to(f.dtype) / self.keep_probability)[:, :, None, None]


class Dropout(nn.Module):
    """Zeroes a part of the features while training and scales the others up (Srivastava et al. 2014).

    Args:
        rate: the part.
        noise: of the network.
    """

    LAYER = LOW_32_BITS  # no block has this number

    def __init__(self, rate: float, noise: CounterRNG) -> None:
        super().__init__()
        self.rate = rate
        self._noise = (noise,)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C)."""
        (noise,) = self._noise
        if not noise.training:
            return features
        stays = noise.uniform(self.LAYER, *features.shape) >= self.rate
        return features * (stays.to(features.dtype) / (1 - self.rate))


def keep_probabilities(num_blocks: int, last_drop: float) -> list[float]:
    """The linear rule: block l of L survives with 1 - l/L * (1 - p_L), where 1 - p_L = `last_drop` (equation 4)."""
    return [1 - block / num_blocks * last_drop for block in range(1, num_blocks + 1)]


@contextmanager
def as_in_training(network: nn.Module) -> Iterator[None]:
    """Training mode without random masks and without recomputation, for measurements on the side of a run.

    Batch norm uses the batch's statistics; which of its buffers change is up to the caller.
    """
    before: dict[Any, Any] = {}
    was_training = network.training
    network.train()
    for module in network.modules():
        if isinstance(module, CounterRNG):
            module.eval()
        if getattr(module, "activation_checkpointing", False):
            before[module] = module.activation_checkpointing
            module.activation_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        network.train(was_training)
        for module, value in before.items():
            module.activation_checkpointing = value
