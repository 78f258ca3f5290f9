"""Exit codes: what a job tells the launcher, and what the launcher tells the shell."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType

DONE = 0  # finished or diverged; which of the two is in the record
FAILED = 1
MISTAKE = 2  # in what the user gave: trying again cannot help
HELD = 73  # another process works on this run
CONTINUE_ME = 75  # stopped by a signal, after a checkpoint was written; sysexits.h calls it a temporary failure
INTERRUPTED = 130  # what a shell reports after Ctrl-C


RETRY_SECONDS = 0.05
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # of schedulers; a person's is SIGINT


def stop_when_asked(also: tuple[signal.Signals, ...] = (signal.SIGINT,)) -> None:
    """From now on a stop signal ends this process with `CONTINUE_ME` and a line.

    Handlers of others stay, submitit's of SIGUSR2 above all; but for SIGTERM, which submitit ignores.
    """
    for number in (*STOP_SIGNALS, *also):
        if number == signal.SIGTERM or signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        # Modules in the middle of their import catch what is raised there and fail in ways of their own, numpy for
        # one. The signal comes again when that is over.
        again = threading.Timer(RETRY_SECONDS, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
        return
    with suppress(OSError):  # stderr may be closed
        os.write(2, b"stopped; the same command goes on from the last checkpoint\n")  # print is not reentrant
    raise SystemExit(CONTINUE_ME)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
