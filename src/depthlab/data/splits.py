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


def stratified_fold(labels: Indices, fold: int, num_folds: int, seed: int) -> tuple[Indices, Indices]:
    """Indices of the images outside fold number `fold` and of those in it, both ascending.

    The images are dealt to the folds in turn, class after class, each class in an order drawn from `seed`. So every
    image is in one fold, and both the sizes of the folds and their shares of a class differ by at most one.

    Raises:
        ValueError: there is no such fold, or a class has fewer images than there are folds.
    """
    if not 0 <= fold < num_folds:
        raise ValueError(f"there is no fold {fold} among {num_folds}, counted from 0")
    if np.unique(labels, return_counts=True)[1].min() < num_folds:
        raise ValueError(f"a class has fewer than {num_folds} images")
    random = np.random.RandomState(seed)
    dealt = np.concatenate([random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    chosen = np.sort(dealt[fold::num_folds])
    return np.setdiff1d(np.arange(len(labels)), chosen, assume_unique=True), chosen


def take_per_class(labels: Indices, size: int, seed: int) -> Indices:
    """Indices, ascending, of `size` images of each class, drawn from `seed`; a larger `size` takes the same and more.

    Raises:
        ValueError: a class has fewer images.
    """
    if np.unique(labels, return_counts=True)[1].min() < size:
        raise ValueError(f"a class has fewer than {size} images")
    random = np.random.RandomState(seed)
    taken = [random.permutation(np.flatnonzero(labels == label))[:size] for label in np.unique(labels)]
    return np.sort(np.concatenate(taken))


def _quotas(counts: Indices, size: int) -> Indices:
    exact = size * counts / counts.sum()
    quotas: Indices = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(quotas - exact, kind="stable")
    quotas[by_remainder[: size - quotas.sum()]] += 1
    return quotas
