"""Ending with the parent: no process of a run outlives the launcher that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: few calls are safe after a fork


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent dies, for whatever reason; on Linux only.

    Args:
        parent: the parent's process number, to notice that it died before this call.
    """
    if _LIBC is None:
        return
    # SIGKILL, not SIGTERM: a job that hangs must end too. At most the steps since the last checkpoint are lost.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
