"""What training batches undergo besides crops and flips: mixup, cutmix, colour jitter, random erasing.

Every draw is a function of (seed, epoch, position), from a stream of its own for each kind: switching one on leaves the
others, and crops and flips, as they were. Batches are changed on the device that uses them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthlab.data.spec import AugmentationSpec
from depthlab.data.train_stream import LOW_32_BITS, AugmentParams, TrainStream

# Zhong et al. 2020, section 4: the erased part of the area, and its shape; their values for CIFAR.
ERASED_AREA = (0.02, 0.4)
ERASED_RATIO = (0.3, 1 / 0.3)
# A word more in the seed than crops and flips have, another one for each kind.
JITTER, ERASING, MIXUP, CUTMIX, CHOICE = range(1, 6)

Arrays = tuple[NDArray[Any], ...]
ParamsByAugmentation = dict[str, tuple[Tensor, ...]]  # of one batch, by augmentation
MIX = "mixup, cutmix"  # one draw decides between the two; no registered name looks like this


class NamedDraws:
    """The draws of an extension's augmentation: each of its streams has a name, and the number of that name."""

    def __init__(self, spec: AugmentationSpec) -> None:
        self.spec = spec

    def draw(self, random: Callable[[int], np.random.RandomState], n: int, height: int, width: int) -> Arrays:
        """The draws of an epoch of n positions."""
        name = self.spec.registered
        return self.spec.draw(lambda stream: random(zlib.crc32(f"{name} {stream}".encode())), n, height, width)


@dataclass(frozen=True)
class Augmentation:
    """Strengths, 0 for off: the keys of the group `augment`."""

    mixup: float = 0.0
    cutmix: float = 0.0
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    others: tuple[NamedDraws, ...] = ()  # those of extensions, in the order of their names

    @property
    def is_off(self) -> bool:
        """Whether nothing is done."""
        return not (self.mixes or self.color_jitter or self.random_erasing or self.others)

    @property
    def mixes(self) -> bool:
        """Whether images have a second label."""
        return bool(self.mixup or self.cutmix)


OFF = Augmentation()


def build_augmentation(on: Mapping[str, AugmentationSpec]) -> Augmentation:
    """What the augmentations that are on do together."""
    own = {f.name for f in fields(Augmentation)} - {"others"}
    strengths = {name: spec.values()["strength"] for name, spec in on.items() if name in own}
    return Augmentation(**strengths, others=tuple(NamedDraws(on[name]) for name in sorted(on) if name not in own))


class Mixed(NamedTuple):
    """Images (n, C, H, W), labels (n,); where images were mixed, the others' labels and the share of `labels`."""

    images: Tensor
    labels: Tensor
    other_labels: Tensor | None = None
    weight: Tensor | None = None

    def others(self, own: slice) -> tuple[Tensor | None, Tensor | None]:
        """Some of the other labels and weights."""
        if self.other_labels is None or self.weight is None:
            return None, None
        return self.other_labels[own], self.weight[own]


class Box(NamedTuple):
    """A rectangle of each image, int64 (n,): rows from `top` up to `bottom`, columns from `left` up to `right`."""

    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor

    def mask(self, height: int, width: int) -> Tensor:
        """Which pixels it covers, bool (n, 1, height, width)."""
        rows = torch.arange(height, device=self.top.device)
        columns = torch.arange(width, device=self.top.device)
        in_rows = (rows >= self.top[:, None]) & (rows < self.bottom[:, None])
        in_columns = (columns >= self.left[:, None]) & (columns < self.right[:, None])
        return in_rows[:, None, :, None] & in_columns[:, None, None, :]


class Held(Protocol):
    """Images in memory or on disk, as a batch is made of them."""

    def train_batch(self, draws: AugmentParams, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `DeviceImages.train_batch`."""


@dataclass(frozen=True)
class Augmenter:
    """Makes whole augmented batches of images of one size. What it draws lies on `device`."""

    augmentation: Augmentation
    stream: TrainStream
    height: int
    width: int
    device: torch.device

    def draw(self, number: int) -> ParamsByAugmentation:
        """What the augmentations that are on draw for batch `number`, by name; `device` holds them."""
        on, size = self.augmentation, (self.height, self.width)
        found: ParamsByAugmentation = {}
        if on.color_jitter:
            found["color_jitter"] = self._draw(number, jitter_factors, on.color_jitter)
        if on.random_erasing:
            found["random_erasing"] = self._draw(number, erased_boxes, on.random_erasing, *size)
        for other in on.others:
            found[other.spec.registered] = self._draw(number, other.draw, *size)
        if on.mixes:
            found[MIX] = self._draw(number, mixtures, on.mixup, on.cutmix, *size)
        return found

    def batch(self, held: Held, draws: AugmentParams, more: ParamsByAugmentation) -> Mixed:
        """A batch jittered as bytes, cropped, mirrored, normalised, then erased, then mixed; `more` is from `draw`."""
        on = self.augmentation
        factors = torch.stack(more["color_jitter"], dim=1) if on.color_jitter else None
        images, labels = held.train_batch(draws, factors)
        if on.random_erasing:
            images.masked_fill_(Box(*more["random_erasing"]).mask(self.height, self.width), 0)
        for other in on.others:
            images = other.spec.apply(images, more[other.spec.registered])
        return self._mix(images, labels, more[MIX]) if on.mixes else Mixed(images, labels)

    def _mix(self, images: Tensor, labels: Tensor, draws: tuple[Tensor, ...]) -> Mixed:
        """Each image with the one before it in the batch, the first with the last."""
        on = self.augmentation
        share, *box, kept = draws
        others = images.roll(1, 0)
        if on.mixup:
            images = torch.lerp(others, images, share[:, None, None, None])
        if on.cutmix:
            images = torch.where(Box(*box).mask(self.height, self.width), others, images)
        return Mixed(images, labels, labels.roll(1, 0), kept)

    def _draw(self, number: int, draw: Callable[..., Arrays], *arguments: float) -> tuple[Tensor, ...]:
        """What `draw` says of the positions of a batch."""
        stream = self.stream
        whole = partial(_epoch, draw, arguments, stream.seed, num_images=stream.num_images, device=self.device)
        parts = [[values[start:stop] for values in whole(epoch)] for epoch, start, stop in stream.epoch_slices(number)]
        return tuple(parts[0]) if len(parts) == 1 else tuple(torch.cat(pair) for pair in zip(*parts, strict=True))


# As many as a batch can need at once: two epochs, three kinds of draws.
@lru_cache(maxsize=6)
def _epoch(
    draw: Callable[..., Arrays],
    arguments: tuple[float, ...],
    seed: int,
    epoch: int,
    num_images: int,
    device: torch.device,
) -> tuple[Tensor, ...]:
    def random(kind: int) -> np.random.RandomState:
        return np.random.RandomState([seed & LOW_32_BITS, seed >> 32, epoch, kind])

    return tuple(torch.from_numpy(array).to(device) for array in draw(random, num_images, *arguments))


def jitter_factors(random: Callable[[int], np.random.RandomState], n: int, strength: float) -> Arrays:
    """Factors of brightness, contrast and saturation, float32 (n,) each, uniform from 1 - strength to 1 + strength."""
    return tuple(random(JITTER).uniform(1 - strength, 1 + strength, (3, n)).astype(np.float32))


def erased_boxes(
    random: Callable[[int], np.random.RandomState], n: int, probability: float, height: int, width: int
) -> Arrays:
    """Random erasing (Zhong et al. 2020): rectangles as `Box` has them, empty for images that are left whole.

    Where the paper draws anew until a rectangle fits, its longer side is cut to the image's.
    """
    is_erased, area, ratio, y, x = random(ERASING).random_sample((5, n))
    area = (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0])) * height * width
    ratio = ERASED_RATIO[0] * (ERASED_RATIO[1] / ERASED_RATIO[0]) ** ratio
    rows = np.clip(np.rint(np.sqrt(area * ratio)), 1, height) * (is_erased < probability)
    columns = np.clip(np.rint(np.sqrt(area / ratio)), 1, width)
    top, left = np.floor(y * (height - rows + 1)), np.floor(x * (width - columns + 1))
    return tuple(side.astype(np.int64) for side in (top, top + rows, left, left + columns))


def mixtures(
    random: Callable[[int], np.random.RandomState], n: int, mixup: float, cutmix: float, height: int, width: int
) -> Arrays:
    """How each image is mixed: its share in a blend, the box that is the other's, and the share of its label.

    Mixup (Zhang et al. 2018): the share is Beta(alpha, alpha). Cutmix (Yun et al. 2019): the box has 1 - Beta(alpha,
    alpha) of the area and a uniform centre; what lies outside the image is cut off. With both on, a fair coin decides
    for each image, and the other way leaves it alone: share 1, or an empty box. The label's share is the pixels'.

    Returns:
        share float32 (n,), top, bottom, left, right int64 (n,), label share float32 (n,).
    """
    is_cut = random(CHOICE).randint(0, 2, n) == 1 if mixup and cutmix else np.full(n, bool(cutmix))
    share = np.where(is_cut, 1.0, random(MIXUP).beta(mixup, mixup, n)) if mixup else np.ones(n)
    top, bottom, left, right = _cut_boxes(random(CUTMIX), n, cutmix, height, width) if cutmix else np.zeros((4, n), int)
    bottom = np.where(is_cut, bottom, top)
    covered = (bottom - top) * (right - left) / (height * width)
    kept = share.astype(np.float32) * (1 - covered)
    return share.astype(np.float32), top, bottom, left, right, kept.astype(np.float32)


def _cut_boxes(random: np.random.RandomState, n: int, alpha: float, height: int, width: int) -> Arrays:
    side = np.sqrt(1 - random.beta(alpha, alpha, n))
    centres = random.random_sample((2, n))
    edges = []
    for centre, length in zip(centres, (height, width), strict=True):
        middle, half = np.floor(centre * length), np.floor(side * length) // 2
        edges += [np.clip(middle - half, 0, length), np.clip(middle + half, 0, length)]
    return tuple(edge.astype(np.int64) for edge in edges)
