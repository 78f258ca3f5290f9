"""Images in memory as bytes, and the batches that a network receives, made on the device where they are used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthlab.data.image_files import Images, chunks
from depthlab.data.train_stream import AugmentParams
from depthlab.errors import InputError

# The offsets of every crop are made once where they are small; those of large images are cut out batch by batch.
OFFSETS_BYTES = 2**26
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


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


def fit_normalization(images: Images, kind: str) -> Normalization:
    """The normalisation that the training images (N, H, W, C) ask for.

    per_pixel: bytes / 255 minus the mean image (section 3.4 of the paper). per_channel: bytes / 255 minus the
    channel's mean, over its standard deviation; a channel that is the same everywhere is not divided.

    Raises:
        InputError: with per_channel, all images are of one colour.
    """
    if kind == "per_pixel":
        total = sum(chunk.sum(axis=0, dtype=np.int64) for chunk in chunks(images))
        mean = total / len(images) / 255
        deviation = np.ones(images.shape[-1])
    else:
        channel_mean, deviation = _channel_moments(images)
        mean = np.broadcast_to(channel_mean, images.shape[1:])
    scale = torch.from_numpy(1 / (255 * deviation)).float()
    return Normalization(scale, torch.from_numpy(mean / deviation).float())


def _channel_moments(images: Images) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total, squares, count = 0.0, 0.0, math.prod(images.shape[:3])
    lowest, highest = np.full(images.shape[-1], 255), np.zeros(images.shape[-1])
    for bytes_ in chunks(images):
        lowest, highest = (
            np.minimum(lowest, bytes_.min(axis=(0, 1, 2))),
            np.maximum(highest, bytes_.max(axis=(0, 1, 2))),
        )
        chunk = bytes_ / 255
        total = total + chunk.sum(axis=(0, 1, 2))
        squares = squares + (chunk**2).sum(axis=(0, 1, 2))
    mean = np.asarray(total / count)
    if (lowest == highest).all():
        raise InputError("All training images are of one colour: there is nothing to learn from them.")
    variance = np.asarray(squares / count) - mean**2
    is_constant = (lowest == highest) | (variance <= 0)  # a channel that is always the same is only shifted
    return mean, np.where(is_constant, 1.0, np.sqrt(np.maximum(variance, 0)))


class DeviceImages:
    """The images of one split on one device, as bytes with a border, ready to be cut into batches.

    One indexed gather picks the images and crops them. What can be done while an image is still bytes is done there,
    a quarter of the traffic; what is the same for each batch is made once; and no operation waits for the device or
    has an inner loop of three channels, which costs ten times a loop over the whole image.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        normalization: Normalization,
        padding: int,
        device: torch.device,
    ) -> None:
        padded = torch.from_numpy(np.pad(images, ((0, 0), *_border(padding))))
        self.draws_device = device
        self.labels = torch.from_numpy(labels).to(device)
        self.padding = padding
        # (N, 2p+1, 2p+1, H, W, C): every crop of every image, as a view.
        self._crops = windows(padded.to(device), *images.shape[1:3])
        self._normalizer = Normalizer(normalization, padding, device)

    def __len__(self) -> int:
        return len(self.labels)

    def train_batch(self, draws: AugmentParams, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cropped, mirrored and normalised images, float32 (n, C, H, W) in channels-last memory, and labels (n,).

        `factors` (n, 3), if given, multiply the images' brightness, contrast and saturation.
        """
        crops = self._crops[draws.image_idx, draws.top, draws.left]
        return self._normalizer.train(crops, draws, factors), self.labels[draws.image_idx]

    def eval_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The images from `start` up to `stop` as they are, normalised: shapes as in `train_batch`."""
        return self._normalizer.eval(self._crops[start:stop, self.padding, self.padding]), self.labels[start:stop]


class Normalizer:
    """From cut-out bytes to what a network receives, on one device.

    The border is zero after normalisation: its bytes are zero, and so is the border of the offset that is
    subtracted.
    """

    def __init__(self, normalization: Normalization, padding: int, device: torch.device) -> None:
        height, width, channels = normalization.offset.shape
        self.padding = padding
        self._scale = normalization.scale.repeat(height * width).to(device)  # (H*W*C,)
        offset = torch.from_numpy(np.pad(normalization.offset.numpy(), _border(padding)))
        self._windows = windows(offset[None].to(device), height, width)[0]  # (2p+1, 2p+1, H, W, C), a view
        self._whole = self._windows[padding, padding].flatten()[None]
        num_sides = 2 * padding + 1
        self._table: Tensor | None = None
        if 8 * num_sides**2 * height * width * channels <= OFFSETS_BYTES:
            self._table = _crops_and_mirrored(offset, height, width).to(device)

    def train(self, crops: Tensor, draws: AugmentParams, factors: Tensor | None) -> Tensor:
        """Crops (n, H, W, C) of bytes, mirrored where the draws say so and normalised."""
        if factors is not None:
            crops = jitter(crops, factors, _inside(crops, draws, self.padding))
        crops = _mirror_where(draws.flip, crops)
        return self._normalized(crops, self._offsets(draws.flip, draws.top, draws.left))

    def eval(self, crops: Tensor) -> Tensor:
        """Whole images (n, H, W, C) of bytes, normalised."""
        return self._normalized(crops, self._whole)

    def _offsets(self, flip: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """What is subtracted from each image, (n, H*W*C)."""
        if self._table is None:
            offsets = self._windows[top, left]
            return torch.where(flip[:, None, None, None], offsets.flip(2), offsets).flatten(1)
        num_sides = 2 * self.padding + 1
        return self._table.index_select(0, (flip * num_sides + top) * num_sides + left)

    def _normalized(self, crops: Tensor, offsets: Tensor) -> Tensor:
        """Bytes (n, H, W, C) as float32 (n, C, H, W); the offsets are one for each image, or one for all."""
        images = crops.flatten(1).to(torch.float32).mul_(self._scale).sub_(offsets)
        return images.view(crops.shape).permute(0, 3, 1, 2)


def jitter(crops: Tensor, factors: Tensor, inside: Tensor) -> Tensor:
    """Bytes (n, H, W, C) whose brightness, contrast and saturation are multiplied by `factors` (n, 3), in this order.

    As torchvision's ColorJitter defines them: contrast moves away from the image's mean grey, saturation from each
    pixel's grey. Greys weigh the channels as ITU-R BT.601 does. What is not `inside` (n, H, W, 1) stays zero.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(dim=1)
    pixels = (crops * brightness).clamp_(max=255)
    mean = _grey(pixels).sum(dim=(1, 2), keepdim=True) / inside.sum(dim=(1, 2), keepdim=True).clamp_(min=1)
    pixels = torch.lerp(mean, pixels, contrast).clamp_(0, 255)
    pixels = torch.lerp(_grey(pixels), pixels, saturation).clamp_(0, 255)
    return pixels.round_().mul_(inside).to(torch.uint8)


def _grey(pixels: Tensor) -> Tensor:
    """The grey of pixels (n, H, W, C) as (n, H, W, 1); of one channel it is that channel."""
    if pixels.shape[-1] == 1:
        return pixels
    red, green, blue = pixels[..., 0:1], pixels[..., 1:2], pixels[..., 2:3]
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _inside(crops: Tensor, draws: AugmentParams, padding: int) -> Tensor:
    """Which pixels of each crop (n, H, W, C) are the image's and not its border's: bool (n, H, W, 1)."""
    height, width = crops.shape[1:3]
    rows = draws.top[:, None] + torch.arange(height, device=crops.device) - padding
    columns = draws.left[:, None] + torch.arange(width, device=crops.device) - padding
    rows_inside, columns_inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return (rows_inside[:, :, None] & columns_inside[:, None, :])[..., None]


def _border(padding: int) -> tuple[tuple[int, int], ...]:
    return (padding, padding), (padding, padding), (0, 0)


def windows(padded: Tensor, height: int, width: int) -> Tensor:
    """Every crop of padded images (N, H+2p, W+2p, C) as a view (N, 2p+1, 2p+1, H, W, C)."""
    return padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)


def _crops_and_mirrored(offset: Tensor, height: int, width: int) -> Tensor:
    """Every crop of the padded offset, then every crop mirrored: (2 * (2p+1)^2, H*W*C)."""
    crops = windows(offset[None], height, width)[0]
    return torch.stack([crops, crops.flip(3)]).flatten(3).flatten(0, 2)


def _mirror_where(flip: Tensor, crops: Tensor) -> Tensor:
    """The bytes (n, H, W, C), those of an image mirrored where `flip` (n,) says so."""
    mask = flip.to(torch.uint8).mul_(255)[:, None, None, None]
    # torch.where says the same; with a condition for each image it is eight times slower on the CPU.
    return crops.flip(2).bitwise_xor_(crops).bitwise_and_(mask).bitwise_xor_(crops)
