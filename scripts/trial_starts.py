"""Starts of a command in a fork of a warmed process, or of train.py as a real one, and how each of them ended."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from moments import STEP, Extent, Moment, SharedMemory, Watch, strike_by_clock

ROOT = Path(__file__).resolve().parent.parent
SECONDS_FOR_A_START = 600.0
SECONDS_TO_DIE = 10.0
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Start:
    """One start of a run: its exit code, what it printed, where it was struck (None: nowhere), the steps it reached."""

    code: int
    said: str
    struck_in: str | None
    step: int
    stray: int
    is_process: bool


class Forks:
    """Starts commands in forks of this process, which has imported everything and has one thread.

    Args:
        folder: for what the commands print.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # What a killed process leaves becomes a child of this one.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `nohup` and `&` have it ignored
        self.extents: dict[str, Extent] = {}

    def measure(self, kind: str, act: Callable[[Watch], int]) -> None:
        """Let an uninterrupted start say what its phases hold, and import what it imported.

        Raises:
            RuntimeError: it did not end well.
        """
        found = self.folder / "measured.json"

        def measured(watch: Watch) -> int:
            code = act(watch)
            sys.setprofile(None)
            found.write_text(json.dumps({"extent": watch.extent(), "modules": list(sys.modules)}))
            return code

        ended = self.start(kind, measured, counts_all=True)
        if ended.code:
            raise RuntimeError(f"the uninterrupted run ended with exit code {ended.code}: {ended.said[-2000:]}")
        told = json.loads(found.read_text())
        self.extents[kind] = told["extent"]
        _import(told["modules"])
        gc.collect()
        gc.freeze()  # a collection in a fork would copy every page that it touches

    def start(
        self, kind: str, act: Callable[[Watch], int], moment: Moment | None = None, counts_all: bool = False
    ) -> Start:
        """Fork; strike at the moment, if there is one; wait."""
        memory, said, extent = SharedMemory(), self.folder / "said.txt", self.extents.get(kind, {})
        before = _children()
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            _be_child(act, memory, moment, extent, said, counts_all)
        status: list[int] = []

        def has_ended() -> bool:
            if not status:
                found, code = os.waitpid(pid, os.WNOHANG)
                status.extend([code] if found else [])
            return bool(status)

        struck = None
        if moment and moment.kind == "time":
            struck = strike_by_clock(moment, extent, memory, lambda number: os.kill(pid, number), has_ended)
        _wait(has_ended, pid)
        code = os.waitstatus_to_exitcode(status[0])
        return Start(
            code, said.read_text(errors="replace"), struck or memory.struck_in, memory[STEP], _end_strays(before), False
        )


def _be_child(
    act: Callable[[Watch], int],
    memory: SharedMemory,
    moment: Moment | None,
    extent: Extent,
    said: Path,
    counts_all: bool,
) -> NoReturn:
    def be_struck() -> int:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        return act(Watch(memory, moment, extent, counts_all))

    end_with(be_struck)


def end_with(act: Callable[[], int]) -> NoReturn:
    """The rest of a forked process, which must not return into its parent's code."""
    code = 1
    try:
        code = act()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(BaseException):
                stream.flush()
        os._exit(code)


def _import(names: Sequence[str]) -> None:
    """Import modules, so that forks find them; some can only be imported by others."""
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    if "torch._inductor.codecache" in names:
        _prepare_compiling()
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise RuntimeError("a module started a thread when it was imported: forks would lack it")


def _prepare_compiling() -> None:
    """Do once what each process that compiles does first: it reads the source of torch and of triton for its keys."""
    from torch._inductor import codecache, config

    config.cpp_cache_precompile_headers = False  # all that is compiled lies in the cache
    codecache.torch_key()
    codecache.CacheBase.get_system()


def _wait(has_ended: Callable[[], bool], pid: int) -> None:
    until = time.monotonic() + SECONDS_FOR_A_START
    while not has_ended():
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            raise RuntimeError(f"a start hung for {SECONDS_FOR_A_START:.0f} s")
        time.sleep(0.002)


def start_process(words: Sequence[str], folder: Path, strike: Callable[[subprocess.Popen[bytes]], str | None]) -> Start:
    """Start train.py as a person does, let `strike` do what it does, wait."""
    said, before = folder / "said.txt", _children()
    with (
        said.open("wb") as file,
        subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words], cwd=ROOT, stdout=file, stderr=file
        ) as process,
    ):
        struck = strike(process)
        code = process.wait(SECONDS_FOR_A_START)
    return Start(code, said.read_text(errors="replace"), struck, 0, _end_strays(before), True)


def _children() -> set[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in found}


def _end_strays(before: set[int]) -> int:
    """How many processes a start has left that do not end by themselves; they are ended."""
    until = time.monotonic() + SECONDS_TO_DIE
    while (left := _children() - before) and time.monotonic() < until:
        for pid in left:
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(left)


def cpu_seconds(pid: int) -> float:
    """What a living process has used so far."""
    try:
        used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def handles_signals(pid: int) -> bool:
    """Whether a process has its handlers: while Python itself starts, signals are Python's."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
    return False
