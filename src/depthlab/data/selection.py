"""Which images of a data set a run trains on, validates on and tests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from depthlab.data.image_files import Images, subset
from depthlab.data.source import ImageSource, Labelled
from depthlab.data.splits import stratified_fold, stratified_split, take_per_class
from depthlab.errors import InputError


@dataclass(frozen=True)
class Selection:
    """How the training images are divided; the keys of the group `data`.

    `fold` of `num_folds` replaces `val_size`. `images_per_class` is taken from what is left to train on.
    """

    val_size: int
    split_seed: int
    fold: int | None = None
    num_folds: int | None = None
    images_per_class: int | None = None

    def divide(self, source: ImageSource, name: str) -> dict[str, Labelled]:
        """train, val and test.

        Raises:
            InputError: there are fewer images than asked for, or the data have their own validation images.
        """
        train, val = self._hold_out(source, name)
        return {
            "train": self._thin_out(*train, source.classes),
            "val": val,
            "test": (source.test_images, source.test_labels),
        }

    def _hold_out(self, source: ImageSource, name: str) -> tuple[Labelled, Labelled]:
        images, labels = source.train_images, source.train_labels
        if source.val is not None:
            if self.fold is not None:
                raise InputError(f"data.fold={self.fold}: {name} has validation images of its own. Set data.fold=null.")
            return (images, labels), source.val
        if self.fold is None:
            # Numbers and images have no strata: those are set aside as if they were of one class.
            strata = labels if source.classes else np.zeros(len(labels), dtype=np.int64)
            stays, aside = self._split(strata, name)
        else:
            stays, aside = self._fold(labels, source.classes)
        return (subset(images, stays), labels[stays]), (subset(images, aside), labels[aside])

    def _split(self, labels: NDArray[np.int64], name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self.val_size >= len(labels):
            raise InputError(
                f"data.val_size={self.val_size}: the training set of {name} has {len(labels)} images, "
                "and at least one must be left to train on."
            )
        return stratified_split(labels, self.val_size, self.split_seed)

    def _fold(self, labels: NDArray[np.int64], classes: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        assert self.fold is not None
        assert self.num_folds is not None
        _check_enough("num_folds", self.num_folds, labels, classes)
        return stratified_fold(labels, self.fold, self.num_folds, self.split_seed)

    def _thin_out(self, images: Images, labels: NDArray[np.int64], classes: Sequence[str]) -> Labelled:
        if self.images_per_class is None:
            return images, labels
        _check_enough("images_per_class", self.images_per_class, labels, classes)
        kept = take_per_class(labels, self.images_per_class, self.split_seed)
        return subset(images, kept), labels[kept]


def choose_classes(source: ImageSource, chosen: Sequence[str]) -> ImageSource:
    """The images of some classes, which are numbered in the order of `chosen`.

    Raises:
        InputError: the data have no such class.
    """
    unknown = [name for name in chosen if name not in source.classes]
    if unknown:
        raise InputError(f"data.classes: there is no class {unknown[0]!r}. There are: {', '.join(source.classes)}.")
    numbers = np.full(len(source.classes), -1)
    numbers[[source.classes.index(name) for name in chosen]] = np.arange(len(chosen))

    def part(images: Images, labels: NDArray[np.int64]) -> Labelled:
        kept = np.flatnonzero(numbers[labels] >= 0)
        return subset(images, kept), numbers[labels[kept]]

    train, test = part(source.train_images, source.train_labels), part(source.test_images, source.test_labels)
    val = None if source.val is None else part(*source.val)
    return replace(
        source,
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        val=val,
        classes=tuple(chosen),
    )


def _check_enough(key: str, value: int, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    fewest = int(counts.argmin())
    if counts[fewest] < value:
        raise InputError(f"data.{key}={value}: class {classes[fewest]} has {counts[fewest]} images to train on.")
