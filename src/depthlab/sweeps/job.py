"""A job: one run that a sweep asks for, and how far it has come in this sweep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from depthlab.config.identity import REPETITION, Identity
from depthlab.config.schema import TrainConfig
from depthlab.sweeps.devices import Lease
from depthlab.sweeps.job_process import Process


class State(StrEnum):
    """Where a job stands. `HELD`: another process works on its run. `DIVERGED` is a result, not a failure."""

    WAITING = "waiting"
    HELD = "held"
    RUNNING = "running"
    FINISHED = "finished"
    DIVERGED = "diverged"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


RESULTS = (State.FINISHED, State.DIVERGED)
OPEN = (State.WAITING, State.HELD, State.RUNNING)


@dataclass(frozen=True)
class Job:
    """What is to be run.

    `label` names the job among the others of its sweep, `command` repeats it alone, `directory` is its run's.
    """

    idx: int
    label: str
    command: str
    config: TrainConfig
    identity: Identity
    directory: Path

    @property
    def accelerator(self) -> str:
        return self.config.trainer.accelerator

    @property
    def num_devices(self) -> int:
        return self.config.trainer.devices


@dataclass
class Entry:
    """A job in the queue. Times are of the monotonic clock, except `started_at`, which is compared with files."""

    job: Job
    state: State = State.WAITING
    reason: str = ""
    log: Path | None = None
    attempts: int = 0
    not_before_seconds: float = 0.0
    lease: Lease | None = None
    process: Process | None = None
    started_at: float = 0.0
    started_seconds: float = 0.0
    steps_before: int = 0  # those that earlier launches have done
    seconds: float = 0.0  # what the attempts that ended took, together
    tail: list[str] = field(default_factory=list)
    is_dropped: bool = False  # stopped because its result is not wanted any more

    def drop(self) -> None:
        """Ask the job to end at a checkpoint; this sweep does not start it again."""
        self.is_dropped = True
        if self.process is not None:
            self.process.stop()

    def running_seconds(self) -> float:
        """How long the present attempt has run."""
        return time.monotonic() - self.started_seconds if self.state is State.RUNNING else 0.0


def labels(overrides: Sequence[Sequence[str]], names: Sequence[str]) -> list[str]:
    """`names`, each with those overrides in which the jobs differ beyond model, seed and fold."""
    split = [dict(override.lstrip("+~").partition("=")[::2] for override in job) for job in overrides]
    keys = {key: None for job in split for key in job if key not in ("model", "model.name", *REPETITION)}
    varying = [key for key in keys if len({job.get(key) for job in split}) > 1]
    return [
        " ".join([name, *(f"{key}={job[key]}" for key in varying if key in job)])
        for name, job in zip(names, split, strict=True)
    ]
