"""The loaders that Lightning iterates over: they yield numbers, and the images are made where they are used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

BlockEnd = Callable[[int], int]  # from the number of a block's first batch to the first one that is not in it


class TrainBatches:
    """The numbers of the batches to come, one validation span at a time, one by one or in blocks.

    A loader in Lightning's sense whose epoch ends where validation is due, so that Lightning validates in steps
    counted from the start of the run, wherever a run was continued.

    Args:
        first: the first number.
        total: the number after the last one.
        span: batches between two validations.
        block_end: cuts the numbers into blocks, which are ranges; None for one number at a time.
    """

    def __init__(self, first: int, total: int, span: int, block_end: BlockEnd | None = None) -> None:
        self.next_first = first
        self.total = total
        self.span = span
        self.block_end = block_end

    def __iter__(self) -> Iterator[int | range]:
        first, stop = self.next_first, min(self.total, (self.next_first // self.span + 1) * self.span)
        while first < stop:
            after = first + 1 if self.block_end is None else min(stop, self.block_end(first))
            yield first if self.block_end is None else range(first, after)
            first = after
        self.next_first = stop  # an iterator that is given up early takes nothing: Lightning makes a continuation two


class EvalBatches:
    """The (split, start, stop) of one pass over a split, in batches of at most `batch_size`."""

    def __init__(self, split: str, num_images: int, batch_size: int) -> None:
        self.split = split
        self.num_images = num_images
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        for start in range(0, self.num_images, self.batch_size):
            yield self.split, start, min(start + self.batch_size, self.num_images)
