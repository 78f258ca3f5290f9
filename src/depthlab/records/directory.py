"""A run's directory: found by what the run is, claimed by one process at a time."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from depthlab.errors import InputError

LOCKS = ".locks"
ASIDE = ".aside"


class Held(InputError):
    """Another process is working on this run."""


@contextmanager
def claim(directory: Path) -> Iterator[None]:
    """Make `directory` if it is not there and hold it until the block ends or the process dies, however it dies.

    Raises:
        Held: another living process holds it.
        InputError: it cannot be written.
    """
    lock = _lock(directory)
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=1.0)  # longer than `is_held` takes to ask
        directory.mkdir(exist_ok=True)
    except Timeout:
        raise Held(f"{directory} is being worked on by {holder(directory)}; wait for it or stop it.") from None
    except OSError as error:
        raise InputError(
            f"{directory} cannot be written ({error.strerror}). Choose another place with paths.log_dir=..."
        ) from None
    with suppress(OSError):  # a courtesy to others
        _holder_path(directory).write_text(_myself(), encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            _holder_path(directory).unlink(missing_ok=True)
        lock.release()


def holder(directory: Path) -> str:
    """Who holds `directory`, in words; as far as is known, for a kill leaves the words behind."""
    with suppress(OSError, UnicodeDecodeError):
        if said := _holder_path(directory).read_text(encoding="utf-8")[:200].strip():
            return said
    return "another process"


def is_held(directory: Path) -> bool:
    """Whether a living process holds `directory`."""
    lock = _lock(directory)
    if not Path(lock.lock_file).exists():
        return False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def set_aside(directory: Path) -> Path:
    """Move `directory` into the folder .aside beside it, under a name that says when, and return its new path."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    aside = directory.parent / ASIDE / f"{directory.name}-{stamp}-{os.getpid()}"
    aside.parent.mkdir(exist_ok=True)
    return directory.rename(aside)


def _myself() -> str:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {platform.node()} since {now}"


def _holder_path(directory: Path) -> Path:
    return directory.parent / LOCKS / f"{directory.name}.holder"


def _lock(directory: Path) -> FileLock:
    # Beside the directory, not in it: the claim outlives the moment in which `set_aside` renames the directory.
    return FileLock(directory.parent / LOCKS / f"{directory.name}.lock")
