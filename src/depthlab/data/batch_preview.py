"""A training batch as a picture: what the network receives, with the bytes' colours put back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from depthlab.data.batch import Batch
from depthlab.data.device_images import Normalization
from depthlab.shown_text import one_line

TILE = 96  # pixels of an image's longer side; small ones are magnified by a whole factor
CAPTION = 32
GAP = 4


def draw_rows(
    rows: list[tuple[str, Batch, Normalization]], classes: tuple[str, ...], num_images: int, margin: int = 116
) -> Image.Image:
    """One row a batch: its title, then its first images, each above its label, or its two labels with their shares."""
    font = ImageFont.load_default(11)
    tiles = [_tiles(batch, normalization, num_images) for _, batch, normalization in rows]
    height, width = tiles[0].shape[1] + CAPTION, tiles[0].shape[2] + GAP
    canvas = Image.new("RGB", (margin + num_images * width, len(rows) * height), "white")
    draw = ImageDraw.Draw(canvas)
    for row, ((title, batch, _), pictures) in enumerate(zip(rows, tiles, strict=True)):
        draw.text((4, row * height + 4), title, "black", font)
        for column, picture in enumerate(pictures):
            left, top = margin + column * width, row * height
            canvas.paste(Image.fromarray(picture), (left, top))
            draw.text((left, top + height - CAPTION), _caption(batch, column, classes), "black", font, spacing=1)
    return canvas


def _tiles(batch: Batch, normalization: Normalization, num_images: int) -> NDArray[np.uint8]:
    """Bytes (n, H, W, 3). The border, zero to the network, is the mean here; so is what was erased."""
    scale, offset = normalization.scale.numpy(), normalization.offset.mean(dim=(0, 1)).numpy()
    values = batch.images[:num_images].permute(0, 2, 3, 1).cpu().numpy()
    pixels = np.clip((values + offset) / scale, 0, 255).round().astype(np.uint8)
    factor = max(1, TILE // max(pixels.shape[1:3]))
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3)) if pixels.shape[-1] == 1 else pixels


def _caption(batch: Batch, idx: int, classes: tuple[str, ...]) -> str:
    label = one_line(classes[int(batch.labels[idx])])
    if batch.other_labels is None or batch.weight is None:
        return label
    weight = float(batch.weight[idx])
    return f"{label} {weight:.2f}\n{one_line(classes[int(batch.other_labels[idx])])} {1 - weight:.2f}"
