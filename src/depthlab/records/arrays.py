"""The arrays beside a record, diagnostics/*.npz: what the report's figures need of a network's inside."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlab.records.atomic_files import replacing
from depthlab.records.directory import check_still_ours
from depthlab.records.published_files import is_published, published_array_names, published_arrays
from depthlab.records.record_checks import MOST_STEPS
from depthlab.records.safe_files import MOST_BYTES, UnfitFile, is_inside, read_array, read_inside

FOLDER = "diagnostics"
MOST_VALUE = 1e30
LARGEST_SIDE = 4096  # pixels of an image

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Kind:
    """What an array must be: the kinds of its type, its number of axes, its largest value. No value is negative."""

    types: str
    ndim: int = 1
    most: float = MOST_VALUE

    def fits(self, array: NDArray[Any]) -> bool:
        """Whether `array` is that; NaN and infinity are, as a run measured them."""
        if array.dtype.kind not in self.types or array.ndim != self.ndim:
            return False
        if "U" in self.types or not array.size:
            return True
        finite = array[np.isfinite(array)]
        return bool((finite >= 0).all() and (finite <= self.most).all())


LAYERS, CLASSES = Kind("U"), Kind("iu", most=2**31)
# What the files hold at least that runs write and reports draw, and how these arrays fit together.
KINDS = {
    "responses": {"layer": LAYERS, "std": Kind("f")},
    "gradients": {"layer": LAYERS, "step": Kind("iu", most=MOST_STEPS), "norm": Kind("f", ndim=2)},
    "predictions": {"label": CLASSES, "predicted": CLASSES},
    "mistakes": {
        "image": Kind("u", ndim=4, most=255),
        "label": CLASSES,
        "predicted": CLASSES,
        "confidence": Kind("f", most=1.001),
    },
}


def _are_images(arrays: Arrays) -> bool:
    _, height, width, channels = arrays["image"].shape
    is_picture = min(height, width) > 0 and max(height, width) <= LARGEST_SIDE and channels in (1, 3)
    return is_picture and len({len(array) for array in arrays.values()}) == 1


FITTING: dict[str, Callable[[Arrays], bool]] = {
    "responses": lambda arrays: 0 < len(arrays["std"]) == len(arrays["layer"]),
    "gradients": lambda arrays: arrays["norm"].size > 0 and arrays["norm"].shape == _grid(arrays),
    "predictions": lambda arrays: 0 < len(arrays["label"]) == len(arrays["predicted"]),
    "mistakes": _are_images,
}


def _grid(arrays: Arrays) -> tuple[int, int]:
    return len(arrays["step"]), len(arrays["layer"])


def arrays_path(directory: Path, name: str) -> Path:
    """Where the arrays called `name` lie in a run's directory."""
    return directory / FOLDER / f"{name}.npz"


def write_arrays(directory: Path, name: str, **arrays: NDArray[Any]) -> None:
    """Put arrays beside the record, in place of those before; plain numbers and text only, nothing pickled.

    Raises:
        UnfitFile: the folder is a link that leads out of the run's directory.
        Held: the run is another process's now.
    """
    check_still_ours(directory)
    path = arrays_path(directory, name)
    path.parent.mkdir(exist_ok=True)
    if not is_inside(path.parent, directory):
        raise UnfitFile(f"{path.parent} is a link that leads out of the run's directory.")
    with replacing(path) as temporary, temporary.open("wb") as file:  # an open file: numpy would add .npz to a name
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_arrays(directory: Path, name: str) -> Arrays:
    """The arrays called `name` of the run in `directory`, which may be one that was published.

    Raises:
        OSError, InputError, zipfile.BadZipFile: there are none, or the file is damaged.
    """
    arrays = published_arrays(directory, name) if is_published(directory) else _read(directory, name)
    for key, kind in KINDS.get(name, {}).items():
        if key not in arrays or not kind.fits(arrays[key]):
            raise UnfitFile(f"{arrays_path(directory, name)}: {key} is missing, or is not what a run writes.")
    if any(not array.ndim for array in arrays.values()) or (name in FITTING and not FITTING[name](arrays)):
        raise UnfitFile(f"{arrays_path(directory, name)}: its arrays do not fit together.")
    return arrays


def _read(directory: Path, name: str) -> Arrays:
    content = io.BytesIO(read_inside(directory, f"{FOLDER}/{name}.npz"))
    with zipfile.ZipFile(content) as archive:
        if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
            raise UnfitFile(f"{arrays_path(directory, name)} is too large when it is unpacked.")
        return {member.removesuffix(".npy"): read_array(archive, member) for member in archive.namelist()}


def array_names(directory: Path) -> list[str]:
    """Which arrays a run has, in alphabetical order."""
    if is_published(directory):
        return published_array_names(directory)
    return sorted(path.stem for path in (directory / FOLDER).glob("*.npz"))
