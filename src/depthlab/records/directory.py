"""A run's directory: found by what the run is, claimed by one process at a time."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from depthlab.errors import InputError
from depthlab.records.atomic_files import remove_leftovers
from depthlab.records.safe_files import is_inside, read_inside

FOLDERS = ("checkpoints", "diagnostics")  # of a run's directory
LOCKS = ".locks"
ASIDE = ".aside"


class Held(InputError):
    """Another process is working on this run."""


@dataclass(frozen=True)
class Claim:
    """A run's directory that this process holds."""

    directory: Path
    lock_file: Path
    identity: tuple[int, int]  # of the lock's file: device and inode

    def still_ours(self) -> bool:
        """Whether the lock's file is the one that was locked.

        It is not after somebody has removed the folder of the sweep: another process may have claimed the run then,
        and this one must not write to it any more.
        """
        try:
            return _file_identity(self.lock_file) == self.identity
        except OSError:
            return False


_CLAIMS: dict[Path, Claim] = {}  # what this process holds


def check_place(directory: Path) -> None:
    """Refuse a run's directory that no file system can hold, its name being too long, say.

    Raises:
        InputError: names it and the remedy.
    """
    try:
        _holder_path(directory).exists()
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"{directory} cannot be a folder ({reason}). Choose another place with paths.log_dir=... or name=..."
        ) from None


@contextmanager
def claim(directory: Path) -> Iterator[Claim]:
    """Make `directory` if it is not there and hold it until the block ends or the process dies, however it dies.

    Temporary files of a process that was killed are removed. Where the block leaves no directory, the lock goes too.

    Raises:
        Held: another living process holds it.
        InputError: it cannot be written, or files of the lock are symbolic links.
    """
    lock = _lock(directory)
    lock_file = Path(lock.lock_file)
    is_new = not directory.parent.exists()
    try:
        _refuse_links(directory)
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=1.0)  # longer than `is_held` takes to ask
        directory.mkdir(exist_ok=True)
        claimed = Claim(directory, lock_file, _file_identity(lock_file))
    except Timeout:
        raise Held(f"{directory} is being worked on by {holder(directory)}; wait for it or stop it.") from None
    except OSError as error:
        lock.release()
        raise InputError(
            f"{directory} cannot be written ({error.strerror}). Choose another place with paths.log_dir=..."
        ) from None
    _CLAIMS[directory] = claimed
    with suppress(OSError):  # a courtesy to others
        _write_new(_holder_path(directory), _myself())
    for folder in (directory, *(directory / name for name in FOLDERS)):
        if is_inside(folder, directory):
            remove_leftovers(folder)
    try:
        yield claimed
    finally:
        del _CLAIMS[directory]
        if claimed.still_ours():  # otherwise these files are another process's
            with suppress(OSError):
                _holder_path(directory).unlink(missing_ok=True)
                if not directory.exists():
                    _remove_lock(lock_file, is_new)
        lock.release()


def still_ours(directory: Path) -> bool:
    """Whether `directory`, if this process has claimed it, is still this process's; see `Claim.still_ours`."""
    claimed = _CLAIMS.get(directory)
    return claimed is None or claimed.still_ours()


def check_still_ours(directory: Path) -> None:
    """Raise Held where another process may have taken the run over since this one claimed it."""
    if not still_ours(directory):
        raise Held(
            f"{directory} was removed while this process worked on it, and may be another process's now. "
            "Nothing more was written. The same command starts or continues the run."
        )


def _refuse_links(directory: Path) -> None:
    lock_file = Path(_lock(directory).lock_file)
    for path in (lock_file.parent, lock_file, _holder_path(directory)):
        if path.is_symlink():
            raise InputError(f"{path} is a symbolic link, which no run of this project makes. Remove it.")


def _remove_lock(lock_file: Path, is_new: bool) -> None:
    """Remove the lock of a run that left nothing, while it is held: a process that waits for it tries again."""
    lock_file.unlink()
    with suppress(OSError):  # there are other runs
        lock_file.parent.rmdir()
        if is_new:
            lock_file.parent.parent.rmdir()


def _write_new(path: Path, text: str) -> None:
    """Write a file that was not there a moment ago: neither a link nor a FIFO is opened."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as file:
        file.write(text)


def _file_identity(path: Path) -> tuple[int, int]:
    found = path.stat(follow_symlinks=False)
    return found.st_dev, found.st_ino


def holder(directory: Path) -> str:
    """Who holds `directory`, in words; as far as is known, for a kill leaves the words behind."""
    path = _holder_path(directory)
    with suppress(OSError, InputError, UnicodeDecodeError):
        text = read_inside(path.parent, path.name, 2**16).decode("utf-8")
        if said := "".join(char for char in text[:200] if char.isprintable()).strip():
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
    folder, name = directory.parent / ASIDE, f"{directory.name}-{stamp}-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    names = (f"{name}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, 1000))))
    # Two within one second, or a clock that was set back: the one before stays.
    return directory.rename(next(folder / each for each in names if not (folder / each).exists()))


def _myself() -> str:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {platform.node()} since {now}"


def _holder_path(directory: Path) -> Path:
    return directory.parent / LOCKS / f"{directory.name}.holder"


def _lock(directory: Path) -> FileLock:
    # Beside the directory, not in it: the claim outlives the moment in which `set_aside` renames the directory.
    return FileLock(directory.parent / LOCKS / f"{directory.name}.lock")
