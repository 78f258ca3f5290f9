"""Images in memory as bytes, and the batches that a network receives, made on the device where they are used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthlab.data.stream import Draws

STATISTICS_CHUNK = 5000  # images at a time, so that float copies of the whole set are never in memory


@dataclass(frozen=True)
class Normalization:
    """x -> x * scale - offset, for bytes x of shape (..., H, W, C).

    `scale` is float32 (C,), `offset` float32 (H, W, C). Both come from training images and serve every split.
    """

    scale: Tensor
    offset: Tensor


def fit_normalization(images: NDArray[np.uint8], kind: str) -> Normalization:
    """The normalisation that the training images (N, H, W, C) ask for.

    per_pixel: bytes / 255 minus the mean image (section 3.4 of the paper). per_channel: bytes / 255 minus the
    channel's mean, over its standard deviation.
    """
    if kind == "per_pixel":
        mean = images.sum(axis=0, dtype=np.int64) / len(images) / 255
        deviation = np.ones(images.shape[-1])
    else:
        channel_mean, deviation = _channel_moments(images)
        mean = np.broadcast_to(channel_mean, images.shape[1:])
    scale = torch.from_numpy(1 / (255 * deviation)).float()
    return Normalization(scale, torch.from_numpy(mean / deviation).float())


def _channel_moments(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total, squares, count = 0.0, 0.0, images[..., 0].size
    for start in range(0, len(images), STATISTICS_CHUNK):
        chunk = images[start : start + STATISTICS_CHUNK] / 255
        total = total + chunk.sum(axis=(0, 1, 2))
        squares = squares + (chunk**2).sum(axis=(0, 1, 2))
    mean = np.asarray(total / count)
    return mean, np.sqrt(np.asarray(squares / count) - mean**2)


class DeviceImages:
    """The images of one split on one device, as bytes with a border, ready to be cut into batches.

    The border is zero after normalisation: its bytes are zero, and so is the border of the offset that is
    subtracted. One indexed gather picks the images and crops them.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        normalization: Normalization,
        padding: int,
        device: torch.device,
    ) -> None:
        height, width = images.shape[1:3]
        border = ((padding, padding), (padding, padding), (0, 0))
        padded = torch.from_numpy(np.pad(images, ((0, 0), *border)))
        offset = torch.from_numpy(np.pad(normalization.offset.numpy(), border))
        self.labels = torch.from_numpy(labels).to(device)
        self.padding = padding
        self._scale = normalization.scale.to(device)
        # (N, 2p+1, 2p+1, H, W, C): every crop of every image, as a view.
        self._crops = _windows(padded.to(device), height, width)
        self._offset_crops = _windows(offset[None].to(device), height, width)[0]

    def __len__(self) -> int:
        return len(self.labels)

    def train_batch(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Cropped, mirrored and normalised images, float32 (n, C, H, W) in channels-last memory, and labels (n,)."""
        images = self._normalized(self._crops[draws.image_idx, draws.top, draws.left], draws.top, draws.left)
        images = torch.where(draws.flip[:, None, None, None], images.flip(2), images)
        return images.permute(0, 3, 1, 2), self.labels[draws.image_idx]

    def eval_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The images from `start` up to `stop` as they are, normalised: shapes as in `train_batch`."""
        centre = torch.tensor(self.padding, device=self.labels.device)
        images = self._normalized(self._crops[start:stop, self.padding, self.padding], centre, centre)
        return images.permute(0, 3, 1, 2), self.labels[start:stop]

    def _normalized(self, crops: Tensor, top: Tensor, left: Tensor) -> Tensor:
        return crops.to(torch.float32).mul_(self._scale).sub_(self._offset_crops[top, left])


def _windows(padded: Tensor, height: int, width: int) -> Tensor:
    return padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
