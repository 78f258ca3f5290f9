"""Activation checkpointing: a stage keeps few of its activations and computes the others again for the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The blocks of a stage in turn, with the same gradients and statistics to the bit, in less memory and more time.

    A stage of n blocks is cut into segments of about sqrt(n): the inputs of the segments are kept, and the
    activations of one segment at a time are there again while its gradient is computed (Chen et al. 2016,
    "Training deep nets with sublinear memory cost"). The forward pass is made twice.
    """
    if not torch.is_grad_enabled():
        return _through(blocks, x)
    length = max(1, round(math.sqrt(len(blocks))))
    for start in range(0, len(blocks), length):
        segment = blocks[start : start + length]
        # Nothing in a stage draws from torch's generator, so its state need not be kept: masks are `CounterRNG`.
        x = checkpoint(
            partial(_through, segment),
            x,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=partial(_contexts, segment),
        )
    return x


def _through(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def _contexts(blocks: Sequence[nn.Module]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first pass, and around the second."""
    return nullcontext(), _statistics_held(blocks)


@contextmanager
def _statistics_held(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """The second pass sees the same batch again, and must not count it twice in batch norm's moving averages.

    It writes into copies that nobody reads. To take the buffers away instead would change what autograd saves, and
    the second pass must save what the first did.
    """
    norms = [module for block in blocks for module in block.modules() if isinstance(module, _BatchNorm)]
    originals = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, originals, strict=True):
        for name, value in buffers.items():
            setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, originals, strict=True):
            for name, value in buffers.items():
                setattr(norm, name, value)
