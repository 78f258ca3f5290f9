"""Processes that never outlive the launcher: started in a group of their own, stopped gently or killed whole.

A job dies with the launcher even when the launcher is killed by SIGKILL: on Linux the kernel sends the job a
signal when its parent dies. It does so for the parent's own children only, so each process of a DDP job calls
`die_with_parent` for itself. Elsewhere than on Linux a launcher that is killed outright leaves its jobs running;
the claim on their directories keeps a second launcher from running them twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from depthlab.runs.parent import die_with_parent


class Process:
    """A job's process, and all that it starts."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start `command`; what it prints is appended to `log`."""
        launcher = os.getpid()
        with log.open("ab") as output:
            # The launcher has one thread, so running code between fork and exec is safe. The kernel's signal comes
            # when the *thread* that forked ends: jobs must be started from the main one.
            self._popen = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,  # Ctrl-C in the terminal reaches the launcher alone
                preexec_fn=lambda: die_with_parent(launcher),  # noqa: PLW1509 - there is one thread, see above
            )

    def poll(self) -> int | None:
        """The exit code once the process has ended, negative for a signal; what it left running is killed then."""
        if self._popen.returncode is None:
            # Not reaped yet, a dead process keeps its number, so the group that is killed is surely its own.
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, self._popen.pid, options) is None:
                return None
            self._kill_group()
        return self._popen.wait()

    def stop(self) -> None:
        """Ask the job to write a checkpoint and end. It tells the other processes of a DDP job itself."""
        if self._popen.returncode is None:
            self._popen.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        """Whether the process ends within this time."""
        until = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        return self._popen.returncode is not None

    def kill(self) -> None:
        """End the process and its whole group now."""
        if self._popen.returncode is None:
            self._kill_group()
            self._popen.wait()

    def _kill_group(self) -> None:
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # gone already; macOS says "not permitted" of a dead leader
            return
