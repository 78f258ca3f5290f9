"""A data set as it was read: images with their targets, in its official split. Where one's own images enter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlab.data.image_files import FileImages, Images, chunks
from depthlab.errors import InputError

Labelled = tuple[Images, NDArray[Any]]
Pair = tuple[Any, Any]


@dataclass(frozen=True)
class ImageSource:
    """A data set with its official split: images are uint8 (N, H, W, C).

    Targets are int64 (N,) for classes; float32 (N, k) for numbers, or (N, C, H, W) for images, where `classes` is
    empty. `val` are validation images of its own, where it has some.
    """

    train_images: Images
    train_labels: NDArray[Any]
    test_images: Images
    test_labels: NDArray[Any]
    classes: tuple[str, ...]
    val: Labelled | None = None

    @classmethod
    def from_arrays(
        cls, train: Pair, test: Pair, classes: Sequence[str] | None = None, val: Pair | None = None
    ) -> ImageSource:
        """A data set from pairs of arrays, checked.

        Args:
            train: images, uint8 (N, H, W, C) or (N, H, W), and targets: integers (N,) from 0 on for classes; floats
                (N,) or (N, k) for numbers, (N, H, W, C) for images.
            test: likewise.
            classes: the classes' names in the order of their labels; by default their numbers.
            val: likewise, where the data set has validation images of its own.

        Raises:
            InputError: what is wrong with the arrays, and the line of code that would mend it.
        """
        parts = {"train": train, "test": test, **({} if val is None else {"val": val})}
        checked = {name: (_check_images(*pair, name), _check_targets(pair[1], name)) for name, pair in parts.items()}
        shapes = {name: images.shape[1:] for name, (images, _) in checked.items()}
        if len(set(shapes.values())) > 1:
            raise InputError(f"images of different shapes: {shapes}. Resize or pad them to one shape.")
        names = _check_classes({name: targets for name, (_, targets) in checked.items()}, classes)
        return cls(*checked["train"], *checked["test"], names, checked.get("val"))

    @classmethod
    def from_dataset(cls, train: Any, test: Any, classes: Sequence[str] | None = None) -> ImageSource:
        """A data set from two torch or torchvision data sets of (image, target), read into memory.

        Images are PIL pictures, uint8 tensors (C, H, W), or float tensors (C, H, W) from 0 to 1.

        Raises:
            InputError: as `from_arrays`.
        """
        if classes is None:
            classes = getattr(train, "classes", None)
        pairs = [_stacked(dataset, name) for dataset, name in ((train, "train"), (test, "test"))]
        names = None if classes is None else [str(name) for name in classes]
        return cls.from_arrays(pairs[0], pairs[1], names)


def _stacked(dataset: Any, name: str) -> Pair:
    images, targets = [], []
    for idx in range(len(dataset)):
        image, target = dataset[idx]
        images.append(_as_bytes(image, f"{name}[{idx}]"))
        # A tensor is an image with its channels first, as the images themselves.
        is_image = hasattr(target, "numpy") and target.ndim == 3
        targets.append(np.asarray(target).transpose(1, 2, 0) if is_image else np.asarray(target))
    if len({image.shape for image in images}) > 1:
        raise InputError(f"{name}: images of different shapes. Resize them, with torchvision's Resize and CenterCrop.")
    return np.stack(images), np.stack(targets)


def _as_bytes(image: Any, where: str) -> NDArray[np.uint8]:
    """A picture, or a tensor (C, H, W), as bytes (H, W, C)."""
    if not hasattr(image, "numpy"):
        array: NDArray[np.uint8] = np.asarray(image)
        return array if array.ndim == 3 else array[..., None]
    array = image.numpy()
    if array.ndim != 3:
        raise InputError(f"{where} has the shape {array.shape}; a tensor (C, H, W) is expected.")
    array = array.transpose(1, 2, 0)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise InputError(f"{where} has values outside 0 to 1. Leave normalisation to data.normalization.")
    return np.rint(255 * array).astype(np.uint8)


def _check_images(images: Any, targets: Any, name: str) -> NDArray[np.uint8]:
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not len(array):
        raise InputError(f"{name} images have the shape {array.shape}; (N, H, W, C) is expected.")
    if array.dtype != np.uint8:
        hint = "(255 * images).round().astype(np.uint8)" if array.max() <= 1 else "images.astype(np.uint8)"
        raise InputError(f"{name} images are {array.dtype}; bytes from 0 to 255 are expected: {hint}")
    if array.shape[-1] not in (1, 3):
        hint = " They look like (N, C, H, W): images.transpose(0, 2, 3, 1)" if array.shape[1] in (1, 3) else ""
        raise InputError(f"{name} images have {array.shape[-1]} channels; 1 or 3 are expected.{hint}")
    if len(array) != len(targets):
        raise InputError(f"{name} has {len(array)} images and {len(targets)} targets.")
    return np.ascontiguousarray(array)


def _check_targets(targets: Any, name: str) -> NDArray[Any]:
    """int64 (N,) of classes, or float32 (N, k) or (N, C, H, W)."""
    array = np.asarray(targets)
    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        if array.ndim != 1:
            raise InputError(
                f"{name} labels have the shape {array.shape}; (N,) is expected. Of one-hot rows: labels.argmax(axis=1)"
            )
        return array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name} targets are {array.dtype}; integers or floats are expected.")
    if not np.isfinite(array).all():
        raise InputError(f"{name} targets hold NaN or infinity. Leave those images out.")
    array = array.astype(np.float32)
    if array.ndim not in (1, 2, 4):
        raise InputError(
            f"{name} targets have the shape {array.shape}; (N,) or (N, k) is expected for numbers, (N, H, W, C) for "
            "images. Of grey images: targets[..., None]"
        )
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    return array[:, None] if array.ndim == 1 else array


def _check_classes(targets: dict[str, NDArray[Any]], classes: Sequence[str] | None) -> tuple[str, ...]:
    kinds = {name: array.dtype for name, array in targets.items()}
    if len(set(kinds.values())) > 1:
        raise InputError(f"targets are integers in one split and floats in another: {kinds}.")
    train = targets["train"]
    if train.dtype != np.int64:
        return ()
    num_classes = int(train.max()) + 1 if classes is None else len(classes)
    for name, array in targets.items():
        if array.min() < 0 or array.max() >= num_classes:
            hint = " They seem to count from 1: labels - 1" if array.min() == 1 and array.max() == num_classes else ""
            raise InputError(
                f"{name} labels run from {array.min()} to {array.max()}; with {num_classes} classes 0 to "
                f"{num_classes - 1} are expected.{hint}"
            )
    missing = sorted(set(range(num_classes)) - set(np.unique(train).tolist()))
    if missing:
        hint = " They seem to count from 1: labels - 1" if missing == [0] else ""
        raise InputError(f"train has no image of class {missing[0]}.{hint}")
    if num_classes < 2:
        raise InputError("train has one class: there is nothing to tell apart. For regression give float targets.")
    return tuple(str(idx) for idx in range(num_classes)) if classes is None else tuple(classes)


def fingerprint(arrays: Iterable[NDArray[Any] | FileImages]) -> str:
    """The SHA-256 of the arrays' bytes, 16 hexadecimal digits: the same images in the same splits, or not."""
    digest = hashlib.sha256()
    for array in arrays:
        for part in chunks(array) if isinstance(array, FileImages) else [array]:
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]
