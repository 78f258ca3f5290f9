"""Reading files that others may have written: regular files inside the run's directory, of a limited size."""

from __future__ import annotations

import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlab.errors import InputError

MOST_BYTES = 512 * 2**20  # larger than any file that a run of this project writes beside its checkpoints
PLAIN_KINDS = "biufU"  # of arrays: truth values, integers, floats, text


class UnfitFile(InputError):
    """The file is not one that this project writes: not regular, outside the run's directory, or too large."""


def is_inside(path: Path, directory: Path) -> bool:
    """Whether `path` lies in `directory` after all symbolic links are resolved."""
    try:
        return path.resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def read_inside(directory: Path, name: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of the file `name` in `directory`.

    A FIFO or a device would block the reader, and a link out of the directory would show files of the reader's.

    Raises:
        UnfitFile: it is not a regular file, too large, or a link that leads out of `directory`.
        OSError: it is missing or cannot be read.
    """
    path = directory / name
    if not is_inside(path, directory):
        raise UnfitFile(f"{path} is a link that leads out of the run's directory.")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(21, "Is a directory", str(path))
        if not stat.S_ISREG(found.st_mode):
            raise UnfitFile(f"{path} is not a regular file.")
        if found.st_size > most_bytes:
            raise UnfitFile(f"{path} is too large ({found.st_size:,} bytes; at most {most_bytes:,}).")
        return file.read(most_bytes + 1)


def read_array(archive: zipfile.ZipFile, member: str) -> NDArray[Any]:
    """An array of an .npz file: numbers or text, of a size that is looked at before memory is taken for it.

    Raises:
        UnfitFile: it is damaged, holds something else, or is too large.
    """
    try:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = headers[version](file)
        if dtype.kind not in PLAIN_KINDS or math.prod(shape) * dtype.itemsize > MOST_BYTES:
            raise UnfitFile(f"the array {member} is too large, or neither numbers nor text ({dtype}, {shape}).")
        with archive.open(member) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except UnfitFile:
        raise
    except Exception as error:  # damaged bytes make zipfile, its decoders and numpy raise whatever they meet
        raise UnfitFile(f"the array {member} is damaged ({type(error).__name__}).") from None
