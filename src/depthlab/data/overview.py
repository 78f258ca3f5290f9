"""A data set at a glance: counts, duplicates, mean images, and pictures of what a network receives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from depthlab.data.batch import Batch
from depthlab.data.device_images import Normalization
from depthlab.data.image_files import Bytes, chunks
from depthlab.data.source import Labelled
from depthlab.shown_text import one_line

TILE = 96  # pixels of an image's longer side; small ones are magnified by a whole factor
CAPTION = 32
GAP = 4
SHOWN = 20  # duplicates that are listed; all are counted


def survey(
    arrays: Mapping[str, Labelled], classes: Sequence[str], watch: Callable[[str], None] = lambda split: None
) -> dict[str, Any]:
    """Counts, sizes, targets and duplicates of a data set, as plain data for a file.

    Args:
        arrays: images and targets of each split.
        classes: the names of the classes; empty where targets are numbers or images.
        watch: is told the name of each split before its images are read.

    Returns:
        "splits": images of each; "image_shape": height, width, channels; "classes": for each class its number of images
        in each split; "imbalance": the largest class of the training images over the smallest, None where one has
        none; "targets": where there are no classes, shape, mean, deviation and range; "duplicates" as `_duplicates`
        has them.
    """
    labels = {split: targets for split, (_, targets) in arrays.items()}
    hashes = {}
    for split, (images, _) in arrays.items():
        watch(split)
        hashes[split] = _hashes(images)
    found: dict[str, Any] = {
        "splits": {split: len(targets) for split, targets in labels.items()},
        "image_shape": list(arrays["train"][0].shape[1:]),
        "classes": {
            name: {split: int((targets == idx).sum()) for split, targets in labels.items()}
            for idx, name in enumerate(classes)
        },
    }
    in_train = [counts["train"] for counts in found["classes"].values()]
    found["imbalance"] = max(in_train) / min(in_train) if in_train and min(in_train) else None
    found["targets"] = {} if classes else {split: _range(targets) for split, targets in labels.items() if len(targets)}
    found["duplicates"] = _duplicates(hashes, labels, bool(classes))
    return found


def _hashes(images: Any) -> list[bytes]:
    return [blake2b(image.tobytes(), digest_size=16).digest() for chunk in chunks(images) for image in chunk]


def _range(targets: NDArray[Any]) -> dict[str, Any]:
    numbers = {name: float(getattr(targets, name)()) for name in ("mean", "std", "min", "max")}
    return {"shape": list(targets.shape[1:]), **numbers}


def _duplicates(
    hashes: Mapping[str, list[bytes]], labels: Mapping[str, NDArray[Any]], has_classes: bool
) -> dict[str, Any]:
    """Images that are equal in every byte, counted within each split and between each two, the first ones listed.

    `count` of "train and test" is how many test images are among the training images; within a split, how many images
    repeat an earlier one. `conflicts` counts those whose class differs.
    """
    pairs: list[dict[str, Any]] = []
    counts: dict[str, dict[str, int]] = {}
    splits = list(hashes)
    for place, later in enumerate(splits):
        for earlier in splits[: place + 1]:
            name = f"within {later}" if earlier == later else f"{earlier} and {later}"
            first: dict[bytes, int] = {}
            if earlier != later:
                first = {value: idx for idx, value in reversed(list(enumerate(hashes[earlier])))}
            count = conflicts = 0
            for idx, value in enumerate(hashes[later]):
                other = first.setdefault(value, idx) if earlier == later else first.get(value, -1)
                if other < 0 or (earlier == later and other == idx):
                    continue
                differs = has_classes and labels[earlier][other] != labels[later][idx]
                count, conflicts = count + 1, conflicts + bool(differs)
                if len(pairs) < SHOWN:
                    pairs.append({"where": name, "images": [other, idx], "same_class": not differs})
            counts[name] = {"count": count, "conflicts": conflicts}
    return {"counts": counts, "first": pairs}


def mean_images(labelled: Labelled, classes: Sequence[str]) -> dict[str, Bytes]:
    """The mean image (H, W, C) of each class that has images; of all of them where there are no classes."""
    images, targets = labelled
    idx = targets if classes else np.zeros(len(targets), dtype=np.int64)
    names = list(classes) or ["all images"]
    totals = np.zeros((len(names), *images.shape[1:]))
    start = 0
    for chunk in chunks(images):
        part = idx[start : start + len(chunk)]
        for label in np.unique(part):
            totals[label] += chunk[part == label].sum(axis=0, dtype=np.int64)
        start += len(chunk)
    counts = np.bincount(idx, minlength=len(names))
    rows = zip(names, totals, counts, strict=True)
    return {name: (total / count).round().astype(np.uint8) for name, total, count in rows if count}


def picture_sizes(files: Sequence[Path]) -> dict[str, Any]:
    """Of picture files: smallest, median and largest width and height, and how many have which mode of PIL."""
    sizes, modes = [], Counter[str]()
    for file in files:
        with Image.open(file) as picture:
            sizes.append(picture.size)
            modes[picture.mode] += 1
    ranges = {
        name: [min(each), float(np.median(each)), max(each)]
        for name, each in zip(("width", "height"), zip(*sizes, strict=True), strict=True)
    }
    return {"count": len(sizes), "sizes": ranges, "modes": dict(modes)}


def as_images(batch: Batch) -> tuple[Batch, Normalization]:
    """A batch whose images are its targets (n, C, H, W), from 0 to 1, for a row of `draw_rows`."""
    channels, height, width = batch.labels.shape[1:]
    identity = Normalization(torch.full((channels,), 1 / 255), torch.zeros(height, width, channels))
    return batch._replace(images=batch.labels), identity


def draw_images(images: Mapping[str, Bytes], columns: int = 10) -> Image.Image:
    """Images (H, W, C) of one shape, each above its name, `columns` to a row."""
    tiles = _magnified(np.stack(list(images.values())))
    height, width = tiles.shape[1] + CAPTION, tiles.shape[2] + GAP
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (min(columns, len(tiles)) * width, rows * height), "white")
    draw = ImageDraw.Draw(canvas)
    for place, (name, tile) in enumerate(zip(images, tiles, strict=True)):
        left, top = place % columns * width, place // columns * height
        canvas.paste(Image.fromarray(tile), (left, top))
        draw.text((left, top + height - CAPTION), name[:16], "black", ImageFont.load_default(11))
    return canvas


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
    """Bytes (n, H, W, 3). Borders and erased parts, which are zero for the network, have the colour of the mean."""
    scale, offset = normalization.scale.numpy(), normalization.offset.mean(dim=(0, 1)).numpy()
    values = batch.images[:num_images].permute(0, 2, 3, 1).cpu().numpy()
    return _magnified(np.clip((values + offset) / scale, 0, 255).round().astype(np.uint8))


def _magnified(pixels: Bytes) -> Bytes:
    """Bytes (n, H, W, 3) of bytes (n, H, W, C), whole factors larger where they are small."""
    factor = max(1, TILE // max(pixels.shape[1:3]))
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3)) if pixels.shape[-1] == 1 else pixels


def _caption(batch: Batch, idx: int, classes: tuple[str, ...]) -> str:
    if not classes:  # numbers; an image as a target is no caption
        return " ".join(f"{value:.2f}" for value in batch.labels[idx].tolist()) if batch.labels.dim() == 2 else ""
    label = one_line(classes[int(batch.labels[idx])])
    if batch.other_labels is None or batch.weight is None:
        return label
    weight = float(batch.weight[idx])
    return f"{label} {weight:.2f}\n{one_line(classes[int(batch.other_labels[idx])])} {1 - weight:.2f}"
