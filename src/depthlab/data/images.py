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

    def deviations(self) -> list[float]:
        """By what each channel, as a number from 0 to 1, is divided."""
        return (1 / (255 * self.scale.double())).tolist()


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
    subtracted. One indexed gather picks the images and crops them. What can be done while an image is still bytes is
    done there, a quarter of the traffic; what is the same for each batch is made once; and no operation waits for the
    device or has an inner loop of three channels, which costs ten times a loop over the whole image.
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
        self.labels = torch.from_numpy(labels).to(device)
        self.padding = padding
        # (N, 2p+1, 2p+1, H, W, C): every crop of every image, as a view.
        self._crops = _windows(padded.to(device), height, width)
        self._scale = normalization.scale.repeat(height * width).to(device)  # (H*W*C,)
        offset = torch.from_numpy(np.pad(normalization.offset.numpy(), border))
        self._offsets = _crops_and_mirrored(offset, height, width).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def train_batch(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Cropped, mirrored and normalised images, float32 (n, C, H, W) in channels-last memory, and labels (n,)."""
        crops = _mirror_where(draws.flip, self._crops[draws.image_idx, draws.top, draws.left])
        return self._normalized(crops, draws.flip, draws.top, draws.left), self.labels[draws.image_idx]

    def eval_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The images from `start` up to `stop` as they are, normalised: shapes as in `train_batch`."""
        unmirrored = torch.zeros(1, dtype=torch.bool, device=self.labels.device)
        centre = torch.full((1,), self.padding, device=self.labels.device)
        crops = self._crops[start:stop, self.padding, self.padding]
        return self._normalized(crops, unmirrored, centre, centre), self.labels[start:stop]

    def _normalized(self, crops: Tensor, flip: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Bytes (n, H, W, C) as float32 (n, C, H, W); the draws are one for each image, or one for all."""
        num_sides = 2 * self.padding + 1
        offsets = self._offsets.index_select(0, (flip * num_sides + top) * num_sides + left)
        images = crops.flatten(1).to(torch.float32).mul_(self._scale).sub_(offsets)
        return images.view(crops.shape).permute(0, 3, 1, 2)


def _windows(padded: Tensor, height: int, width: int) -> Tensor:
    return padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)


def _crops_and_mirrored(offset: Tensor, height: int, width: int) -> Tensor:
    """Every crop of the padded offset, then every crop mirrored: (2 * (2p+1)^2, H*W*C)."""
    crops = _windows(offset[None], height, width)[0]
    return torch.stack([crops, crops.flip(3)]).flatten(3).flatten(0, 2)


def _mirror_where(flip: Tensor, crops: Tensor) -> Tensor:
    """The bytes (n, H, W, C), those of an image mirrored where `flip` (n,) says so."""
    mask = flip.to(torch.uint8).mul_(255)[:, None, None, None]
    # torch.where says the same; with a condition for each image it is eight times slower on the CPU.
    return crops.flip(2).bitwise_xor_(crops).bitwise_and_(mask).bitwise_xor_(crops)
