"""The order of the training images and every random crop and flip, as a function of (seed, epoch, position)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

LOW_32_BITS = 0xFFFFFFFF


@dataclass(frozen=True)
class AugmentParams:
    """For each of consecutive training positions: which image, where its crop begins, whether it is mirrored.

    `image_idx`, `top` and `left` are int64 (n,), `flip` is bool (n,). Offsets run from 0 to twice the padding.
    """

    image_idx: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor

    def part(self, start: int, stop: int) -> AugmentParams:
        """The positions from `start` up to `stop`."""
        return AugmentParams(
            self.image_idx[start:stop], self.top[start:stop], self.left[start:stop], self.flip[start:stop]
        )


@dataclass(frozen=True)
class TrainStream:
    """The endless sequence of training positions, cut into numbered batches.

    With last_batch="wrap" every batch is full and runs on into the next epoch; with "short" an epoch ends with
    what is left of it.

    Args:
        num_images: training images; an epoch uses each once.
        batch_size: images in one batch, over all processes.
        seed: the run's seed.
        padding: crop offsets are drawn from 0 to 2 * padding, both ends included.
        flip: whether half of the images are mirrored.
        last_batch: "wrap" or "short".
        frozen: every batch is the first one, uncropped and unmirrored (for overfitting one batch).
        device: where the draws live.
    """

    num_images: int
    batch_size: int
    seed: int
    padding: int
    flip: bool
    last_batch: str
    frozen: bool
    device: torch.device

    def batches_per_epoch(self) -> int:
        """Batches that an epoch takes, its last one counted whole."""
        return math.ceil(self.num_images / self.batch_size)

    def batch(self, number: int) -> AugmentParams:
        """The draws of batch `number`, counted from 0 at the start of training."""
        if self.frozen:
            return self._unaugmented(self._epoch(0).part(0, self.batch_size))
        parts = [self._epoch(epoch).part(start, stop) for epoch, start, stop in self.epoch_slices(number)]
        return parts[0] if len(parts) == 1 else _join(*parts)

    def epoch_slices(self, number: int) -> list[tuple[int, int, int]]:
        """The positions of batch `number`: (epoch, start, stop), and a second one where it runs on into an epoch."""
        if self.last_batch == "short":
            epoch, idx = divmod(number, self.batches_per_epoch())
            return [(epoch, idx * self.batch_size, min((idx + 1) * self.batch_size, self.num_images))]
        epoch, start = divmod(number * self.batch_size, self.num_images)
        stop = start + self.batch_size
        if stop <= self.num_images:
            return [(epoch, start, stop)]
        return [(epoch, start, self.num_images), (epoch + 1, 0, stop - self.num_images)]

    def first_of_next_epoch(self, number: int) -> int:
        """The first batch that lies whole behind the epoch in which batch `number` ends."""
        epoch = self.epoch_slices(number)[-1][0] + 1
        if self.last_batch == "short":
            return epoch * self.batches_per_epoch()
        return -(-epoch * self.num_images // self.batch_size)

    def _epoch(self, epoch: int) -> AugmentParams:
        return _draw_epoch(self.seed, epoch, self.num_images, self.padding, self.flip, self.device)

    def _unaugmented(self, draws: AugmentParams) -> AugmentParams:
        centre = torch.full_like(draws.top, self.padding)
        return AugmentParams(draws.image_idx, centre, centre, torch.zeros_like(draws.flip))


# Two epochs are in use at once where a batch wraps, on one or two devices; one more for a second stream.
@lru_cache(maxsize=5)
def _draw_epoch(
    seed: int, epoch: int, num_images: int, padding: int, flip: bool, device: torch.device
) -> AugmentParams:
    # RandomState's streams are frozen for ever (NEP 19), and its seed may be several words, mixed by its makers.
    random = np.random.RandomState([seed & LOW_32_BITS, seed >> 32, epoch])
    order = random.permutation(num_images)
    top, left = random.randint(0, 2 * padding + 1, size=(2, num_images))
    mirrored = random.randint(0, 2, size=num_images) == 1
    if not flip:
        mirrored[:] = False
    return AugmentParams(*(torch.from_numpy(array).to(device) for array in (order, top, left, mirrored)))


def _join(head: AugmentParams, tail: AugmentParams) -> AugmentParams:
    return AugmentParams(
        torch.cat([head.image_idx, tail.image_idx]),
        torch.cat([head.top, tail.top]),
        torch.cat([head.left, tail.left]),
        torch.cat([head.flip, tail.flip]),
    )
