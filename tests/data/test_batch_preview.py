"""A batch as a picture shows the pixels that the network receives, magnified by a whole factor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from depthlab.data.batch import Batch
from depthlab.data.batch_preview import CAPTION, GAP, draw_rows
from depthlab.data.device_images import fit_normalization

MARGIN = 20
CLASSES = ("cat", "dog")


def images_of(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, channels), dtype=np.uint8)


def drawn(images: NDArray[np.uint8], **mixture: torch.Tensor) -> NDArray[np.uint8]:
    normalization = fit_normalization(images, "per_channel")
    values = torch.from_numpy(images).float() * normalization.scale - normalization.offset
    batch = Batch(values.permute(0, 3, 1, 2), torch.tensor([0, 1]), "train", **mixture)
    return np.asarray(draw_rows([("row", batch, normalization)], CLASSES, 2, MARGIN))


@pytest.mark.parametrize(
    ("height", "width", "channels", "factor"),
    [(32, 32, 3, 3), (28, 28, 1, 3), (8, 32, 3, 3), (32, 8, 3, 3), (100, 60, 3, 1), (60, 100, 3, 1)],
)
def test_each_pixel_is_drawn_in_its_colour(height: int, width: int, channels: int, factor: int) -> None:
    images = images_of(height, width, channels)
    canvas = drawn(images)
    assert canvas.shape == (factor * height + CAPTION, MARGIN + 2 * (factor * width + GAP), 3)
    for idx, image in enumerate(images):
        left = MARGIN + idx * (factor * width + GAP)
        tile = canvas[: factor * height, left : left + factor * width]
        assert (tile == np.broadcast_to(image, (height, width, 3)).repeat(factor, 0).repeat(factor, 1)).all()


def test_a_mixed_image_has_both_labels_below_it() -> None:
    images = images_of(32, 32, 3)
    plain = drawn(images)
    mixed = drawn(images, other_labels=torch.tensor([1, 0]), weight=torch.tensor([0.7, 1.0]))
    below = [canvas[-CAPTION:, MARGIN:].min(axis=2) < 128 for canvas in (plain, mixed)]
    ink = [[part[:half].any(), part[half:].any()] for part, half in ((below[0], 16), (below[1], 16))]
    assert ink == [[True, False], [True, True]]
