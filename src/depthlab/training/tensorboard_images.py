"""Images for TensorBoard, painted as arrays: plotting libraries take longer to import than a short run to train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from depthlab.shown_text import one_line

Picture = NDArray[np.uint8]  # (height, width, 3)

TILE = 32  # pixels; digits of 8x8 would be specks
LARGEST_TILE = 96  # larger images are thinned out
GAP = 1
# TensorBoard's cards are 350 pixels wide and scale by dropping pixels: ten classes fit as they are.
CELL = 28
MARGIN = 70
LONGEST_NAME = 11
# Names and counts stay legible up to here; beyond it a cell is a few pixels of colour.
MOST_LABELLED = 20


def grid(images: Tensor, columns: int) -> Picture:
    """Network inputs (n, C, H, W) side by side; the smallest value of all is black, the largest white."""
    every = -(-max(images.shape[2:]) // LARGEST_TILE)
    values = images[:, :, ::every, ::every].float().cpu().numpy()
    lowest, highest = values.min(), values.max()
    pixels = ((values - lowest) * (255 / max(highest - lowest, 1e-12))).round().astype(np.uint8)
    pixels = np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:])) if pixels.shape[1] == 1 else pixels
    scale = max(1, TILE // pixels.shape[-1])
    tiles = pixels.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    tiles = np.pad(tiles, ((0, -len(tiles) % columns), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
    rows = tiles.reshape(-1, columns, *tiles.shape[1:]).transpose(0, 2, 1, 3, 4)
    picture: Picture = rows.reshape(rows.shape[0] * rows.shape[1], -1, 3)
    return picture


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str]) -> Picture:
    """The confusion matrix: rows are labels, columns predictions; blue is right, red wrong, by share of the row."""
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(classes) > MOST_LABELLED:
        return _coloured(shares).repeat(4, axis=0).repeat(4, axis=1)
    return _labelled(counts, _coloured(shares).repeat(CELL, axis=0).repeat(CELL, axis=1), classes)


def _coloured(shares: NDArray[np.float64]) -> Picture:
    """White fades to blue on the diagonal; off it to red, by the square root, so that few mistakes show."""
    is_right = np.eye(len(shares), dtype=bool)[..., None]
    full = np.where(is_right, [33, 102, 172], [178, 24, 43])
    weight = np.where(is_right, shares[..., None], np.sqrt(shares)[..., None])
    cells: Picture = (255 - weight * (255 - full)).round().astype(np.uint8)
    return cells


def _labelled(counts: NDArray[np.int64], cells: Picture, classes: Sequence[str]) -> Picture:
    canvas = Image.new("RGB", (len(cells) + MARGIN,) * 2, "white")
    canvas.paste(Image.fromarray(cells), (MARGIN, MARGIN))
    font = ImageFont.load_default()
    draw = ImageDraw.Draw(canvas)
    centres = [MARGIN + idx * CELL + CELL // 2 for idx in range(len(classes))]
    for centre, name in zip(centres, classes, strict=True):
        draw.text((MARGIN - 6, centre), one_line(name)[:LONGEST_NAME], "black", font, anchor="rm")
        canvas.paste(_upright(one_line(name)[:LONGEST_NAME], font), (centre - CELL // 2, 0))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "white" if cells[row * CELL, column * CELL].mean() < 140 else "black"
            draw.text((centres[column], centres[row]), str(count), ink, font, anchor="mm")
    return np.asarray(canvas, dtype=np.uint8)


def _upright(name: str, font: Any) -> Image.Image:
    """A class's name along the upper edge, read from below."""
    strip = Image.new("RGB", (MARGIN, CELL), "white")
    ImageDraw.Draw(strip).text((6, CELL // 2), name, "black", font, anchor="lm")
    return strip.rotate(90, expand=True)
