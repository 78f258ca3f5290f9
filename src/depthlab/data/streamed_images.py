"""Batches of images that stay files: the next ones are decoded while the present one is used."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from depthlab.data.device_images import Normalization, Normalizer, windows
from depthlab.data.image_files import FileImages
from depthlab.data.train_stream import AugmentParams

MOST_PENDING = 8  # batches
ALIGNMENT = 16  # bytes: any dtype can be viewed at a multiple of it


class Field(NamedTuple):
    """Where a tensor lies in a row of bytes."""

    start: int
    stop: int
    dtype: torch.dtype
    shape: torch.Size


class RowLayout:
    """Several tensors in one row of bytes, so that one copy sends them all.

    Args:
        example: tensors of the types and shapes to be packed.
    """

    def __init__(self, example: Sequence[Tensor]) -> None:
        self.fields: list[Field] = []
        self.width = 0
        for tensor in example:
            size = tensor.numel() * tensor.element_size()
            self.fields.append(Field(self.width, self.width + size, tensor.dtype, tensor.shape))
            self.width += -(-size // ALIGNMENT) * ALIGNMENT

    def fill(self, row: NDArray[np.uint8], tensors: Sequence[Tensor]) -> None:
        """Put tensors on the CPU into a row of `width` bytes."""
        for field, tensor in zip(self.fields, tensors, strict=True):
            row[field.start : field.stop] = tensor.numpy().reshape(-1).view(np.uint8)

    def views(self, row: Tensor) -> list[Tensor]:
        """The tensors in a row, uint8 (width,), without a copy."""
        return [row[start:stop].view(dtype).view(shape) for start, stop, dtype, shape in self.fields]


def send_together(tensors: Sequence[Tensor], device: torch.device, pin_memory: bool) -> list[Tensor]:
    """Tensors on the CPU as tensors on `device`, in one copy for which the host does not wait if memory is pinned."""
    layout = RowLayout(tensors)
    # torch gives pinned memory to another tensor only after the copy out of it has been made.
    host = torch.empty(layout.width, dtype=torch.uint8, pin_memory=pin_memory)
    layout.fill(host.numpy(), tensors)
    return layout.views(host.to(device, non_blocking=True))


class StreamedImages:
    """The images of one split on disk: batches equal those of `DeviceImages`, byte for byte before normalisation.

    Which images a batch has is known beforehand, so `prefetch` may begin with the next ones.
    """

    def __init__(
        self,
        images: FileImages,
        labels: NDArray[np.int64],
        normalization: Normalization,
        padding: int,
        device: torch.device,
    ) -> None:
        self.draws_device = torch.device("cpu")  # where the files' numbers are needed
        self.labels = torch.from_numpy(labels).to(device)
        self.padding = padding
        self._images = images
        self._device = device
        self._normalizer = Normalizer(normalization, padding, device)
        self._pending: dict[bytes, list[Future[NDArray[np.uint8]]]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def prefetch(self, image_idx: NDArray[np.int64]) -> None:
        """Begin to decode images of a batch to come."""
        if len(image_idx) and image_idx.tobytes() not in self._pending:
            self._pending[image_idx.tobytes()] = self._images.start(image_idx)
        while len(self._pending) > MOST_PENDING:  # what nobody came for
            self._pending.pop(next(iter(self._pending)))

    def train_batch(self, draws: AugmentParams, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `DeviceImages.train_batch`."""
        decoded = self._decoded(draws.image_idx.numpy())
        whole, *own = self._sent([decoded, draws.image_idx, draws.top, draws.left, draws.flip])
        whole, draws = F.pad(whole, (0, 0, *[self.padding] * 4)), AugmentParams(*own)
        places = torch.arange(len(whole), device=self._device)
        crops = windows(whole, *self._images.image_shape[:2])[places, draws.top, draws.left]
        return self._normalizer.train(crops, draws, factors), self.labels[draws.image_idx]

    def eval_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """As `DeviceImages.eval_batch`."""
        stop = min(stop, len(self))  # a slice of `DeviceImages` ends there too
        (whole,) = self._sent([self._decoded(np.arange(start, stop))])
        return self._normalizer.eval(whole), self.labels[start:stop]

    def _decoded(self, image_idx: NDArray[np.int64]) -> Tensor:
        pending = self._pending.pop(image_idx.tobytes(), None) or self._images.start(image_idx)
        return torch.from_numpy(self._images.wait(pending))

    def _sent(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        if self._device.type == "cuda":
            return send_together(tensors, self._device, pin_memory=True)
        return [tensor.to(self._device) for tensor in tensors]
