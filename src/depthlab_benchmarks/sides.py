"""The end that gives the turns: each side of a comparison is a process that runs only during its turns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pipe
from types import TracebackType
from typing import Any

from depthlab.runs.parent import die_with_parent

NUM_LINES = 12
LINE_LENGTH = 300
Turn = dict[str, Any]


class SideFailed(Exception):
    """A side ended before it was measured; the message holds the end of its output."""


def last_lines(text: str) -> str:
    """The end of the output of a process."""
    return "\n".join(line[:LINE_LENGTH] for line in text.splitlines()[-NUM_LINES:])


class Side:
    """One side of a comparison, in a session of its own.

    Between its turns the whole session is stopped by a signal, loader workers and all: nothing prefetches, spins or
    saves while another side is measured.

    Args:
        module: the module to run, such as "depthlab_benchmarks.ours".
        arguments: its arguments; a descriptor for `Clock` comes before them.
        environment: variables beside this process's own.
    """

    def __init__(self, module: str, arguments: list[str], environment: dict[str, str] | None = None) -> None:
        self._connection, theirs = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the side runs
        measuring = os.getpid()
        self._started_at = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno()), *arguments],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            # A stopped process would not notice that the benchmark has ended.
            preexec_fn=lambda: die_with_parent(measuring),  # noqa: PLW1509 - there is one thread
        )
        theirs.close()
        self.pid = self._process.pid
        self.peak_memory_mib: float | None = None
        self.settings = ""  # the side's own words, known from its first step on

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def first_step(self) -> dict[str, float]:
        """Wait for the first step; seconds from the start of the process to the end of each part before it."""
        message = self._receive()
        marks: dict[str, float] = message["marks"]
        self.settings = message["settings"]
        self._signal(signal.SIGSTOP)
        return {name: at - self._started_at for name, at in marks.items()}

    def turn(self, num_steps: int) -> Turn:
        """Let it do `num_steps`, or slightly more if it cannot stop there; what it measured."""
        self._signal(signal.SIGCONT)
        self._connection.send(num_steps)
        turn: Turn = self._receive()
        self._signal(signal.SIGSTOP)
        return turn

    def close(self) -> None:
        """End it. `peak_memory_mib` is then the largest resident set that a process of the side has had."""
        self._connection.close()
        if self._process.returncode is not None:
            return
        self._signal(signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        self.peak_memory_mib = usage.ru_maxrss * unit / 2**20
        self._log.close()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._log.seek(0)
            said = last_lines(self._log.read().decode(errors="replace"))
            raise SideFailed(f"a side of the comparison ended early:\n{said}") from None

    def _signal(self, number: int) -> None:
        os.killpg(self.pid, number)
