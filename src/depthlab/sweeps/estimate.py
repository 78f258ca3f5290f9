"""How long a sweep will take and how much disk it needs, as far as runs of the same kind tell."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlab.errors import InputError
from depthlab.records.record import find_records, read_record
from depthlab.sweeps.job import Entry, Job, State
from depthlab.sweeps.standing import Progress

Kind = tuple[str, str, str]  # data, model, device
DEVICES = {"gpu": "cuda"}  # what records call the accelerators
CHECKPOINTS_KEPT = 2
BYTES_PER_PARAM = 12  # weights, and at most two moments of the optimiser, in fp32


@dataclass(frozen=True)
class Known:
    """What finished runs tell: by kind of run the seconds a step, by network its number of parameters."""

    step_seconds: Mapping[Kind, float]
    num_params: Mapping[str, int]

    def job_seconds(self, job: Job) -> float | None:
        """How long the whole of `job` takes; None where no run of its kind has finished."""
        seconds = self.step_seconds.get(kind_of(job))
        return None if seconds is None else seconds * job.config.trainer.max_steps

    def job_bytes(self, job: Job) -> int | None:
        """How much disk the checkpoints of `job` take; None where no run of its network has finished."""
        count = self.num_params.get(job.config.model.name)
        return None if count is None else CHECKPOINTS_KEPT * BYTES_PER_PARAM * count


def kind_of(job: Job) -> Kind:
    """What decides how long a step takes, as far as records tell."""
    return job.config.data.name, job.config.model.name, DEVICES.get(job.accelerator, job.accelerator)


def learn(log_dir: Path) -> Known:
    """Read the finished runs below `log_dir`; records that cannot be read teach nothing."""
    seconds: dict[Kind, list[float]] = {}
    num_params: dict[str, int] = {}
    for record in _finished(log_dir):
        try:
            model = record["model"]["name"]
            kind = record["data"]["name"], model, record["device"].partition(":")[0]
            seconds.setdefault(kind, []).append(record["wall_seconds"] / record["steps"])
            num_params[model] = record["model"]["num_params"]
        except (KeyError, TypeError, ZeroDivisionError, AttributeError):
            continue
    return Known({kind: statistics.median(values) for kind, values in seconds.items()}, num_params)


def sweep_seconds(seconds: Sequence[float | None], num_places: int) -> float | None:
    """How long jobs of these lengths take over `num_places`; None while one of them is unknown."""
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds):
        return None
    return max([sum(known) / max(1, num_places), *known], default=0.0)


def left(entry: Entry, progress: Progress | None, known: Known, typical_seconds: float | None) -> float | None:
    """How long an entry of the queue still takes; `typical_seconds` stands in where its kind is unknown."""
    if entry.state not in (State.RUNNING, State.WAITING):
        return 0.0
    if progress is not None and progress.seconds_left is not None:
        return progress.seconds_left
    whole = known.job_seconds(entry.job) or typical_seconds
    return None if whole is None else max(0.0, whole - entry.running_seconds())


def free_bytes(directory: Path) -> int:
    """The free disk space where `directory` is or will be."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _finished(log_dir: Path) -> list[dict[str, Any]]:
    found = []
    for directory in find_records(log_dir):
        try:
            record = read_record(directory)
        except InputError:
            continue
        if record["status"] == "finished":
            found.append(record)
    return found
