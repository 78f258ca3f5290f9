"""Batches of images that stay files: the next ones are decoded while the present one is used."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from depthlab.data.device_images import Normalization, Normalizer, windows
from depthlab.data.image_files import FileImages
from depthlab.data.train_stream import AugmentParams

MOST_PENDING = 8  # batches


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
        whole = F.pad(self._read(draws.image_idx.numpy()), (0, 0, *[self.padding] * 4))
        draws = draws.to(self._device)
        places = torch.arange(len(whole), device=self._device)
        crops = windows(whole, *self._images.image_shape[:2])[places, draws.top, draws.left]
        return self._normalizer.train(crops, draws, factors), self.labels[draws.image_idx]

    def eval_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """As `DeviceImages.eval_batch`."""
        stop = min(stop, len(self))  # a slice of `DeviceImages` ends there too
        return self._normalizer.eval(self._read(np.arange(start, stop))), self.labels[start:stop]

    def _read(self, image_idx: NDArray[np.int64]) -> Tensor:
        pending = self._pending.pop(image_idx.tobytes(), None) or self._images.start(image_idx)
        return torch.from_numpy(self._images.wait(pending)).to(self._device)
