"""A command line answered in this process: what a fresh one would say, without the seconds that it takes to start."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import SimpleNamespace

from hydra.core.global_hydra import GlobalHydra

from depthlab.commands.train import train
from depthlab.runs import exits

TRAIN = SimpleNamespace(main=lambda: train(sys.argv[1:]))


@contextmanager
def signals_restored() -> Iterator[None]:
    """What a command does about signals is over when it ends; it begins with Ctrl-C as in a terminal's foreground."""
    handlers = {number: signal.getsignal(number) for number in (*exits.STOP_SIGNALS, signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def typed(*arguments: str) -> Iterator[None]:
    """The state of a fresh process whose command line is this."""
    argv = sys.argv
    sys.argv = ["train.py", *arguments]
    os.environ.pop("HYDRA_FULL_ERROR", None)
    GlobalHydra.instance().clear()
    try:
        with signals_restored():
            yield
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR", None)  # main sets it, and processes that tests start would inherit it


def answer(main: Callable[[], int], *arguments: str) -> tuple[int, str]:
    """What a person sees: the exit code and everything that was printed. Whatever is raised fails the test."""
    said = io.StringIO()
    with typed(*arguments), redirect_stdout(said), redirect_stderr(said):
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    return code, said.getvalue()
