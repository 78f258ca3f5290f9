"""Where a start of a run is killed or asked to stop: phases, and moments in them that are drawn beforehand."""

from __future__ import annotations

import functools
import mmap
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

PHASES = (
    *("import", "start", "data", "network", "first step", "steps", "checkpoint writing", "evaluation"),
    *("record writing", "end", "publishing"),
)
# How a moment in a phase is found. A phase that writes files has few calls around each of them, hence "file".
KINDS = ("call", "file", "time")
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "shutil.copyfile")
POLL_SECONDS = 0.001
PHASE, STRUCK_IN, STEP = 0, 1, 2  # places in the shared memory


@dataclass(frozen=True)
class Moment:
    """A signal at one point of a phase.

    Args:
        number: the signal.
        phase: where it comes.
        kind: whether the point is found by counting calls, counting file events, or by a clock.
        part: how far into the phase, from 0 to 1 of what the uninterrupted run does there.
    """

    number: int
    phase: str
    kind: str
    part: float


Extent = dict[str, dict[str, float]]  # by phase and kind: calls, file events, seconds


class SharedMemory:
    """A few numbers that a forked process writes and its parent reads, also after a kill."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE)

    def __getitem__(self, place: int) -> int:
        return int.from_bytes(self._map[4 * place : 4 * place + 4], sys.byteorder)

    def __setitem__(self, place: int, value: int) -> None:
        self._map[4 * place : 4 * place + 4] = value.to_bytes(4, sys.byteorder)

    @property
    def phase(self) -> str:
        """The phase of the process, or its last one."""
        return PHASES[self[PHASE]]

    @property
    def struck_in(self) -> str | None:
        """The phase in which the process sent itself the signal, None if it did not."""
        return PHASES[self[STRUCK_IN] - 1] if self[STRUCK_IN] else None


class Watch:
    """Follows a forked process from the inside: counts what happens in each phase, and strikes at its moment.

    Args:
        memory: shows the phase to the parent.
        moment: when to send the signal; None, or one that is found by a clock, is left to the parent.
        extent: what the phases of the uninterrupted run hold, to find the moment.
        counts_all: whether everything is counted, to learn what the phases hold.
    """

    def __init__(self, memory: SharedMemory, moment: Moment | None, extent: Extent, counts_all: bool) -> None:
        self.memory = memory
        self.moment = moment
        self.counts_all = counts_all
        self.counts: Counter[tuple[str, str]] = Counter()
        self._stack = ["start"]
        self._since = time.monotonic()
        self._at = 1 + int(moment.part * extent.get(moment.phase, {}).get(moment.kind, 0)) if moment else 0
        if counts_all or (moment and moment.kind == "file"):
            sys.addaudithook(self._on_event)
            self._count_flushes()
        self._show()

    @contextmanager
    def during(self, phase: str, after: str | None = None) -> Iterator[None]:
        """The block belongs to a phase; what follows to another one, if that is given."""
        self._clock()
        self._stack.append(phase)
        self._show()
        try:
            yield
        finally:
            self._clock()
            self._stack.pop()
            if after:
                self._stack[-1] = after
            self._show()

    def become(self, phase: str, instead_of: str) -> None:
        """The present phase turns into another one, if it is `instead_of`."""
        if self._stack[-1] == instead_of:
            self._clock()
            self._stack[-1] = phase
            self._show()

    def extent(self) -> Extent:
        """What every phase so far holds."""
        self._clock()
        found: Extent = {}
        for (phase, kind), number in self.counts.items():
            found.setdefault(phase, {})[kind] = number
        return found

    def _clock(self) -> None:
        now = time.monotonic()
        self.counts[self._stack[-1], "time"] += now - self._since  # type: ignore[assignment]  # seconds
        self._since = now

    def _show(self) -> None:
        phase = self._stack[-1]
        self.memory[PHASE] = PHASES.index(phase)
        is_moment = self.moment and (self.moment.phase, self.moment.kind) == (phase, "call")
        sys.setprofile(self._on_call if self.counts_all or is_moment else None)

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> None:
        # Python runs the handlers of signals where a function begins, and after one in C has returned.
        if event in ("call", "c_return"):
            self._count("call")

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS:
            self._count("file")

    def _count_flushes(self) -> None:
        flush = os.fsync  # is no event

        def counted(file: Any) -> None:
            self._count("file")
            flush(file)
            self._count("file")

        setattr(os, "fsync", counted)  # noqa: B010  # the names of its arguments differ

    def _count(self, kind: str) -> None:
        phase = self._stack[-1]
        self.counts[phase, kind] += 1
        moment = self.moment
        if moment and (moment.phase, moment.kind) == (phase, kind) and self.counts[phase, kind] == self._at:
            self.memory[STRUCK_IN] = 1 + PHASES.index(phase)
            os.kill(os.getpid(), moment.number)


def mark_run(watch: Watch) -> None:
    """Have the phases of a run told to a watch, in this process."""
    from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop

    from depthlab.records.journal import Journal
    from depthlab.runs import execute
    from depthlab.runs.fit import Fit
    from depthlab.training.callbacks.stopwatch import Stopwatch

    _mark(watch, execute, "build_data", "data")
    _mark(watch, execute, "build_network", "network")
    _mark(watch, Fit, "train", "first step", after="end")
    _mark(watch, Fit, "save", "checkpoint writing")
    _mark(watch, _EvaluationLoop, "run", "evaluation")
    _mark(watch, Journal, "write", "record writing")
    end_batch = Stopwatch.on_train_batch_end

    def ended(self: Stopwatch, trainer: Any, module: Any, *others: Any) -> None:
        watch.memory[STEP] = module.step
        watch.become("steps", instead_of="first step")
        end_batch(self, trainer, module, *others)

    setattr(Stopwatch, "on_train_batch_end", ended)  # noqa: B010  # mypy allows no assignment to a method


def _mark(watch: Watch, owner: Any, name: str, phase: str, after: str | None = None) -> None:
    act = getattr(owner, name)

    @functools.wraps(act)
    def marked(*args: Any, **kwargs: Any) -> Any:
        with watch.during(phase, after):
            return act(*args, **kwargs)

    setattr(owner, name, marked)


def strike_by_clock(
    moment: Moment, extent: Extent, memory: SharedMemory, send: Callable[[int], None], has_ended: Callable[[], bool]
) -> str | None:
    """Send the signal once the process has spent its part of the seconds in the phase; where it was then.

    Returns:
        The phase, None where the process ended before.
    """
    left = moment.part * extent.get(moment.phase, {}).get("time", 0.0)
    before = time.monotonic()
    while not has_ended():
        now = time.monotonic()
        if memory.phase == moment.phase:
            if left <= 0:
                phase = memory.phase
                send(moment.number)
                return memory.phase if moment.number == signal.SIGKILL else phase
            left -= now - before
        before = now
        time.sleep(POLL_SECONDS)
    return None
