"""The measuring end of a side: it works during its turns, and reports how long they took and where the time went."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

# torch is imported only for a GPU: start-up measures what comes before its import.
if TYPE_CHECKING:
    from torch import Tensor

Stamp = Any  # a float of seconds, or an event in the GPU's queue


class Spans:
    """Seconds spent in named parts of a step.

    On a GPU the stamps are events in its queue, for which nothing waits; on the CPU they are readings of the clock.
    """

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._pairs: dict[str, list[tuple[Stamp, Stamp]]] = defaultdict(list)
        self._begun: dict[str, Stamp] = {}

    def begin(self, name: str) -> None:
        """A part begins here."""
        self._begun[name] = self._stamp()

    def end(self, name: str) -> None:
        """It ends here."""
        self._pairs[name].append((self._begun.pop(name), self._stamp()))

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time the block as a part."""
        self.begin(name)
        yield
        self.end(name)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with its calls timed as a part, except while a CUDA graph is captured."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._on_gpu and _is_capturing():
                return function(*args, **kwargs)
            with self.span(name):
                return function(*args, **kwargs)

        return call

    def take(self) -> dict[str, float]:
        """The sums by name; they start again from 0. The device must have finished."""
        sums = {name: sum(_seconds(*pair) for pair in pairs) for name, pairs in self._pairs.items()}
        self._pairs.clear()
        return sums

    def _stamp(self) -> Stamp:
        if not self._on_gpu:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _seconds(begin: Stamp, end: Stamp) -> float:
    return float(end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000)


def _is_capturing() -> bool:
    import torch

    return torch.cuda.is_current_stream_capturing()


class Clock:
    """Counts steps, and at the end of each turn reports and waits for the next turn.

    Args:
        descriptor: of the pipe to the process that gives the turns (`depthlab_benchmarks.sides`).
        on_gpu: whether a turn ends when the GPU has finished.
    """

    def __init__(self, descriptor: int, on_gpu: bool = False) -> None:
        self._connection: Connection = Connection(descriptor)
        self._on_gpu = on_gpu
        self._marks: dict[str, float] = {}
        self._num_steps = self._wanted = 0
        self._loss_sum: Tensor | None = None
        self._started = 0.0
        self.spans = Spans(on_gpu)
        self.settings = ""  # of this side, in words; sent with the first step

    def set_device(self, on_gpu: bool) -> None:
        """Set where the steps run, once that is known."""
        self._on_gpu = on_gpu
        self.spans = Spans(on_gpu)

    def mark(self, name: str) -> None:
        """A part of the start-up ends here."""
        self._marks[name] = time.time()

    def note_loss(self, loss: Tensor) -> None:
        """Add a step's loss to the turn's, on its device."""
        loss = loss.detach()
        self._loss_sum = loss if self._loss_sum is None else self._loss_sum + loss

    def steps_done(self, number: int = 1) -> bool:
        """Count steps. True if a turn has ended and the next one begins."""
        if not self._marks.get("first step"):
            self._synchronize()
            self.mark("first step")
            self._connection.send({"marks": self._marks, "settings": self.settings})
        else:
            self._num_steps += number
            if self._num_steps < self._wanted:
                return False
            self._report()
        self._wait()
        return True

    def restart(self) -> None:
        """Begin the turn here: what was done since the last report does not count."""
        self._synchronize()
        self.spans.take()
        self._num_steps = 0
        self._loss_sum = None
        self._started = time.perf_counter()

    def _report(self) -> None:
        self._synchronize()
        seconds = time.perf_counter() - self._started
        loss = None if self._loss_sum is None else self._loss_sum.item() / self._num_steps
        turn = {"steps": self._num_steps, "seconds": seconds, "loss": loss, "spans": self.spans.take()}
        if self._on_gpu:
            import torch

            turn["gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
        self._connection.send(turn)

    def _wait(self) -> None:
        try:
            self._wanted = self._connection.recv()
        except EOFError:  # the benchmark has ended
            os._exit(0)
        self.restart()

    def _synchronize(self) -> None:
        if self._on_gpu:
            import torch

            torch.cuda.synchronize()
