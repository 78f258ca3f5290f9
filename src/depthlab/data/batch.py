"""What a step receives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

SPLITS = ("train", "val", "test")


class Batch(NamedTuple):
    """Float images (n, C, H, W), their targets, and the split they are from.

    `labels` are int64 (n,) for classes; float32 (n, k) or (n, C, H, W) for regression. Where images are mixed,
    `weight` (n,) is the share of `labels` in each, and the rest is that of `other_labels` (n,).
    """

    images: Tensor
    labels: Tensor
    split: str
    other_labels: Tensor | None = None
    weight: Tensor | None = None
