"""What the steps of a chunk read: draws and learning rates, on the device before the chunk's first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthlab.data.batch import Batch
from depthlab.data.datamodule import ImageDataModule
from depthlab.data.streamed_images import RowLayout, StreamedImages

CPU = torch.device("cpu")


class ChunkInputs(Protocol):
    """The batches and learning rates of a chunk of steps, in tensors that stay where they are."""

    def steps(self, numbers: range, rates: Sequence[Sequence[float]]) -> Iterator[None]:
        """Send what the steps `numbers` read; yields before each of them."""

    def read(self) -> tuple[Batch, Tensor]:
        """Batch and rates, float32 (groups,), of the step that runs. Called inside the step, captured or not."""


class ChunkRows:
    """A table on the device with a row for each step of a chunk, filled in one copy from pinned memory.

    A counter on the device picks the row, so that a captured step reads the next one at every replay.

    Args:
        example: the tensors of one step, on the CPU; those of every step have their types and shapes.
        num_rows: steps in a chunk, at most.
        device: of the table.
    """

    def __init__(self, example: Sequence[Tensor], num_rows: int, device: torch.device) -> None:
        self._layout = RowLayout(example)
        self._table = torch.zeros(num_rows, self._layout.width, dtype=torch.uint8, device=device)
        self._row_idx = torch.zeros(1, dtype=torch.int64, device=device)

    def send(self, rows: Sequence[Sequence[Tensor]]) -> None:
        """Fill the table and go back to its first row, without waiting for the device."""
        on_gpu = self._table.device.type == "cuda"
        # A new pinned buffer each time: torch gives its memory to another one only after the copy has been made.
        host = torch.zeros(len(rows), self._table.shape[1], dtype=torch.uint8, pin_memory=on_gpu)
        table: NDArray[np.uint8] = host.numpy()
        for own, row in zip(table, rows, strict=True):
            self._layout.fill(own, row)
        self._table[: len(rows)].copy_(host, non_blocking=True)
        self._row_idx.zero_()

    def next(self) -> list[Tensor]:
        """The tensors of the present row; the next call reads the next row."""
        row = self._table.index_select(0, self._row_idx).flatten()
        self._row_idx.add_(1)
        return self._layout.views(row)


class DrawnInputs:
    """Batches of images in the device's memory: only their draws are sent, and the step itself makes the batch.

    Args:
        data: the images, and the draws of each batch.
        num_groups: learning rates.
        longest: steps in a chunk, at most.
        device: where the steps run.
    """

    def __init__(self, data: ImageDataModule, num_groups: int, longest: int, device: torch.device) -> None:
        self._data = data
        self._device = device
        self._example = data.draw(0, CPU, CPU)
        self._rows = ChunkRows([torch.zeros(num_groups), *self._example.tensors()], longest, device)
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._drawn_ahead = -1

    def steps(self, numbers: range, rates: Sequence[Sequence[float]]) -> Iterator[None]:
        """One copy before the first step, nothing before the others."""
        draws = [self._data.draw(number, CPU, CPU) for number in numbers]
        self._rows.send([[torch.tensor(own), *each.tensors()] for own, each in zip(rates, draws, strict=True)])
        self._draw_ahead(numbers[-1])
        for _ in numbers:
            yield

    def _draw_ahead(self, number: int) -> None:
        """Draw the next epoch while the device works; its draws are kept until they are needed."""
        first = self._data.stream(CPU).first_of_next_epoch(number)
        if first != self._drawn_ahead:
            self._drawn_ahead = first
            self._ahead.submit(self._data.draw, first, CPU, CPU)

    def read(self) -> tuple[Batch, Tensor]:
        """Make the batch of the present row."""
        rates, *draws = self._rows.next()
        return self._data.batch_of(self._example.with_tensors(draws), self._device), rates


class CopiedInputs:
    """Batches of images that stay files: each is made outside of the step and copied in.

    Args:
        data: makes the batches.
        num_groups: learning rates.
        longest: steps in a chunk, at most.
        device: where the steps run.
    """

    def __init__(self, data: ImageDataModule, num_groups: int, longest: int, device: torch.device) -> None:
        self._data = data
        self._device = device
        self._rows = ChunkRows([torch.zeros(num_groups)], longest, device)
        example = data.train_batch(0, device)
        copies: dict[str, Any] = {
            key: value.clone() for key, value in example._asdict().items() if isinstance(value, Tensor)
        }
        self._batch = example._replace(**copies)

    def steps(self, numbers: range, rates: Sequence[Sequence[float]]) -> Iterator[None]:
        """A batch is made and copied in before each step."""
        self._rows.send([[torch.tensor(own)] for own in rates])
        for number in numbers:
            fresh = self._data.train_batch(number, self._device)
            torch._foreach_copy_(_tensors(self._batch), _tensors(fresh))
            yield

    def read(self) -> tuple[Batch, Tensor]:
        """The batch that was copied in."""
        return self._batch, self._rows.next()[0]


def inputs_of(data: ImageDataModule, num_groups: int, longest: int, device: torch.device) -> ChunkInputs:
    """What fits the images: in memory or on disk. See the two classes."""
    is_streamed = isinstance(data.on_device("train", device), StreamedImages)
    return (CopiedInputs if is_streamed else DrawnInputs)(data, num_groups, longest, device)


def _tensors(batch: Batch) -> list[Tensor]:
    return [value for value in batch if isinstance(value, Tensor)]
