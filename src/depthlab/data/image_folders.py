"""A folder of image files as a data set: its layout read, its files sorted, its images decoded or left on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from depthlab.data.image_files import FileImages, subset
from depthlab.data.source import ImageSource, Labelled
from depthlab.data.splits import stratified_split
from depthlab.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
SPLIT_FOLDERS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageFolder:
    """Where the images lie and how they are read; the keys of data=image_folder.

    Either `folder` holds train/ and perhaps val/ and test/, each with a folder for each class, or it holds the
    classes' folders itself. What is missing is taken from the training images by the fractions.
    """

    folder: str
    data_dir: Path
    image_size: int | None
    val_fraction: float
    test_fraction: float
    memory_limit_gib: float
    num_workers: int

    def read(self, split_seed: int) -> ImageSource:
        """Find the files, decode them if they fit into the limit, and set the test images aside.

        Raises:
            InputError: the folder is absent, empty, has one class, an empty class, or a broken file.
        """
        root = self._find()
        parts = {name: root / name for name in SPLIT_FOLDERS if (root / "train").is_dir() and (root / name).is_dir()}
        _check_layout(root, parts)
        classes = _class_names(parts.get("train", root))
        paths, labels = _list_files(parts or {"train": root}, classes)
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="decode")
        files = FileImages([path for part in paths.values() for path in part], self.image_size, pool)
        ends = np.cumsum([len(part) for part in paths.values()])
        split: dict[str, Labelled] = {
            name: (files.take(np.arange(stop - len(labels[name]), stop)), labels[name])
            for name, stop in zip(paths, ends, strict=True)
        }
        self._set_test_aside(split, split_seed)
        if np.prod(files.shape) <= self.memory_limit_gib * 2**30:
            split = {name: (images[:], its_labels) for name, (images, its_labels) in split.items()}
        return ImageSource(*split["train"], *split["test"], tuple(classes), split.get("val"))

    def _find(self) -> Path:
        typed = Path(self.folder).expanduser()
        for path in (typed, self.data_dir / typed):
            if path.is_dir():
                return path
        raise InputError(f"data.folder={self.folder}: there is no such folder, here or in {self.data_dir}.")

    def _set_test_aside(self, split: dict[str, Labelled], split_seed: int) -> None:
        if "test" not in split:
            images, labels = split["train"]
            stays, aside = stratified_split(labels, round(self.test_fraction * len(labels)), split_seed)
            split["train"], split["test"] = ((subset(images, part), labels[part]) for part in (stays, aside))
        if not len(split["test"][1]):
            raise InputError(
                f"data.test_fraction={self.test_fraction}: {self.folder} has no test/, and a run ends with a test."
            )


def _check_layout(root: Path, parts: dict[str, Path]) -> None:
    names = [path.name for path in subfolders(root)]
    if not parts and (alone := [name for name in SPLIT_FOLDERS if name in names]):
        raise InputError(f"{root} holds {alone[0]}/ and no train/: images to train on are missing.")
    others = [name for name in names if parts and name not in parts]
    if others:
        raise InputError(f"{root} holds train/ and also {others[0]}/: beside train/ only val/ and test/ are read.")


def _class_names(folder: Path) -> list[str]:
    classes = [path.name for path in subfolders(folder)]
    if not classes:
        raise InputError(f"{folder} is empty: a folder of image files is expected for each class.")
    if len(classes) == 1:
        raise InputError(f"{folder} has one class, {classes[0]}: there is nothing to tell apart.")
    return classes


def _list_files(
    parts: dict[str, Path], classes: list[str]
) -> tuple[dict[str, list[Path]], dict[str, NDArray[np.int64]]]:
    """The files of each part, class after class and sorted, and their labels."""
    paths: dict[str, list[Path]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    for name, folder in parts.items():
        unknown = [path.name for path in subfolders(folder) if path.name not in classes]
        if unknown:
            raise InputError(f"{folder / unknown[0]} is a class that train/ does not have.")
        files = [image_files(folder / label) for label in classes]
        empty = [label for label, found in zip(classes, files, strict=True) if not found and name == "train"]
        if empty:
            raise InputError(f"{folder / empty[0]} holds no image ({', '.join(SUFFIXES)}).")
        paths[name] = [path for found in files for path in found]
        labels[name] = np.repeat(np.arange(len(classes)), [len(found) for found in files])
    return paths, labels


def subfolders(folder: Path) -> list[Path]:
    """Folders in `folder`, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """Every image below `folder`; the order of a directory is that of the machine, so they are sorted."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(path for path in found if not path.name.startswith("."))
