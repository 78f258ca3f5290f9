"""Setting images aside, the same ones for every run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified_split(labels: Indices, size: int, seed: int) -> tuple[Indices, Indices]:
    """Indices of the images that stay and of the `size` that are set aside, both ascending.

    Each class gives its share, rounded so that the sizes add up (largest remainder first); which of its images
    go is drawn from `seed` with a generator whose stream is frozen for ever (NumPy's NEP 19).

    Raises:
        ValueError: `size` is negative or larger than the number of labels.
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"cannot set aside {size} of {len(labels)} images")
    random = np.random.RandomState(seed)
    classes, counts = np.unique(labels, return_counts=True)
    quotas = _quotas(counts, size)
    aside = [
        random.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    chosen = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *aside]))
    stays = np.setdiff1d(np.arange(len(labels)), chosen, assume_unique=True)
    return stays, chosen


def _quotas(counts: Indices, size: int) -> Indices:
    exact = size * counts / counts.sum()
    quotas: Indices = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(quotas - exact, kind="stable")
    quotas[by_remainder[: size - quotas.sum()]] += 1
    return quotas
