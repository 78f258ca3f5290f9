"""One launcher at a time on a GPU: a kernel lock on a file for each device, in a folder of this user."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from depthlab.errors import InputError

# For containers that share GPUs but no temporary folder.
VARIABLE = "DEPTHLAB_RUNTIME_DIR"


class DeviceLocks:
    """Keeps the other launchers of this user from the devices that this one uses.

    The kernel lets go of a lock when the process that holds it ends, however it ends.
    """

    def __init__(self, folder: Path, uuids: Mapping[str, str]) -> None:
        """Locks in `folder`, which is created if it is missing.

        Args:
            folder: the same for all launchers that share devices.
            uuids: what a device is called everywhere, by what it is called here: two launchers may see different
                parts of a machine, each with a "0".

        Raises:
            InputError: it cannot be written, or is another user's.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            is_ours = folder.stat().st_uid == os.getuid()
        except OSError as error:
            raise InputError(
                f"{folder} cannot be written ({error.strerror}). Set {VARIABLE} to another folder."
            ) from None
        if not is_ours:
            raise InputError(f"{folder} belongs to another user. Set {VARIABLE} to a folder of your own.")
        self._folder = folder
        self._uuids = uuids
        self._held: dict[str, FileLock] = {}

    def take(self, device: str) -> bool:
        """Hold `device`; False where another launcher does."""
        lock = FileLock(self._folder / f"device-{self._uuids.get(device, device).replace('/', '-')}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._held[device] = lock
        return True

    def give_back(self, device: str) -> None:
        """Let other launchers have `device`."""
        self._held.pop(device).release()


def runtime_folder() -> Path:
    """Where the launchers of this user on this machine meet."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"depthlab-{os.getuid()}"
