"""The arrays beside a record, diagnostics/*.npz: what the report's figures need of a network's inside."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlab.records.atomic_files import replacing
from depthlab.records.directory import check_still_ours
from depthlab.records.published_files import is_published, published_array_names, published_arrays
from depthlab.records.safe_files import MOST_BYTES, UnfitFile, is_inside, read_inside

FOLDER = "diagnostics"


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


def load_arrays(directory: Path, name: str) -> dict[str, NDArray[Any]]:
    """The arrays called `name` of the run in `directory`, which may be one that was published.

    Raises:
        OSError, InputError, ValueError, EOFError, zipfile.BadZipFile: there are none, or the file is damaged.
    """
    if is_published(directory):
        return published_arrays(directory, name)
    content = io.BytesIO(read_inside(directory, f"{FOLDER}/{name}.npz"))
    with zipfile.ZipFile(content) as archive:  # np.load takes a file that is no archive for a single array
        if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
            raise UnfitFile(f"{arrays_path(directory, name)} is too large when it is unpacked.")
    content.seek(0)
    with np.load(content, allow_pickle=False) as file:
        return dict(file.items())


def array_names(directory: Path) -> list[str]:
    """Which arrays a run has, in alphabetical order."""
    if is_published(directory):
        return published_array_names(directory)
    return sorted(path.stem for path in (directory / FOLDER).glob("*.npz"))
