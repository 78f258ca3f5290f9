"""Writing files so that a reader, or the next start, sees the old content or the new, never half of it."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFTOVERS = ".*.tmp"  # the temporary files below, and those of other writers in a run's directory
STAGING = ".staging.tmp"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; when the block ends well it is flushed to disk and takes `path`'s place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(root: Path, folder: Path) -> Iterator[Path]:
    """A copy of `folder`, or an empty folder where there is none; when the block ends well it takes `folder`'s place.

    Whenever the process is killed, `folder` is the old one or the new one, whole; the next call removes the rest.

    Args:
        root: the folder above, in which the copy has the same relative path below `STAGING`.
        folder: the one to be replaced.
    """
    staging, is_new = root / STAGING, not root.exists()
    copy = staging / folder.relative_to(root)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        if folder.exists():
            shutil.copytree(folder, copy, symlinks=True)
        else:
            copy.mkdir(parents=True)
        yield copy
        for path in copy.rglob("*"):
            if not path.is_symlink():
                _flush(path)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _put(copy, folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # something is in it now
                root.rmdir()


def _put(new: Path, old: Path) -> None:
    """Rename `new` to `old`, which gets the name of `new` if it exists."""
    if not old.exists():
        new.rename(old)
        return
    if sys.platform == "linux" and _exchange(new, old):
        return
    # For a moment there is no folder of this name. Other systems, and some file systems, know no exchange.
    aside = new.with_name(f"{new.name}.old")
    old.rename(aside)
    new.rename(old)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders at once; False where the C library or the file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    arguments = (_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return rename is not None and rename(*arguments) == 0


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written in `folder`; nobody else may be writing there."""
    for path in folder.glob(LEFTOVERS):
        with suppress(OSError):
            path.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
