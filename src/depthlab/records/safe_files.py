"""Reading files that others may have written: regular files inside the run's directory, of a limited size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from depthlab.errors import InputError

MOST_BYTES = 512 * 2**20  # larger than any file that a run of this project writes beside its checkpoints


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
