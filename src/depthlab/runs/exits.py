"""Exit codes: what a job tells the launcher, and what the launcher tells the shell."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

DONE = 0  # finished or diverged; which of the two is in the record
FAILED = 1
MISTAKE = 2  # in what the user gave: trying again cannot help
HELD = 73  # another process works on this run
CONTINUE_ME = 75  # stopped by a signal, after a checkpoint was written; sysexits.h calls it a temporary failure
INTERRUPTED = 130  # what a shell reports after Ctrl-C

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # of schedulers; a person's is SIGINT
BLOCKED = (*STOP_SIGNALS, signal.SIGINT)


def prepare_signals() -> None:
    """For the start of a command, before its imports: stop signals end it, Ctrl-C with `INTERRUPTED`.

    They end it at once: nothing has been made that could be lost, and libraries turn an exception that comes from a
    handler into one of their own (imports of modules in C, OmegaConf's merging).
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `nohup` and `&` have it ignored
        signal.signal(signal.SIGINT, _interrupt)
    _handle(STOP_SIGNALS, _stop_at_once)


def block_signals() -> None:
    """Have signals wait while this process becomes another program, until that calls `stop_when_asked`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)


def stop_when_asked(also: tuple[signal.Signals, ...] = (signal.SIGINT,)) -> None:
    """From now on a stop signal ends this process with `CONTINUE_ME` and a line.

    Handlers of others stay, submitit's of SIGUSR2 above all; but for SIGTERM, which submitit ignores.
    """
    _handle((*STOP_SIGNALS, *also), _stop)


def end_with(main: Callable[[], int]) -> NoReturn:
    """Be a process whose whole work is `main`, which returns the exit code.

    Ctrl-C ends it without a traceback, where `main` has no answer of its own. Once there is an exit code, a stop signal
    changes nothing of it: Python still cleans up, and would print an exception that a handler raises there.
    """
    code = FAILED
    try:
        code = main()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else FAILED if ended.code else DONE
        raise
    finally:
        for number in (*BLOCKED, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: _end(code))
    sys.exit(code)


def is_stop(error: BaseException) -> bool:
    """Whether an error is what a library made of the `SystemExit` that a stop signal raised in it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SystemExit) and seen.code == CONTINUE_ME:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _handle(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> None:
    ours = (signal.SIG_DFL, signal.default_int_handler, _interrupt, _stop_at_once)
    for number in numbers:
        if number == signal.SIGTERM or signal.getsignal(number) in ours:
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)


def _stop(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):  # a kill at this moment costs nothing, and this costs no more
        _stop_at_once(number, frame)
    _say_stopped()
    raise SystemExit(CONTINUE_ME)


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    _say_stopped()
    _end(CONTINUE_ME)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _end(INTERRUPTED)


def _say_stopped() -> None:
    with suppress(OSError):  # stderr may be closed
        os.write(2, b"stopped; the same command goes on from the last checkpoint\n")  # print is not reentrant


def _end(code: int) -> None:
    with suppress(Exception):  # the signal may have come while the stream was written
        sys.stdout.flush()
    os._exit(code)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
