"""Estimates of the time and disk space of a sweep, from finished runs of the same kind."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from depthlab.errors import InputError
from depthlab.records.progress_file import Progress
from depthlab.records.record import Record, find_records, read_record
from depthlab.records.record_checks import MOST_STEPS
from depthlab.sweeps.job import Entry, Job, State

Kind = tuple[str, str, str]  # data, model, device
DEVICES = {"gpu": "cuda"}  # what records call the accelerators
CHECKPOINTS_KEPT = 2
BYTES_PER_PARAM = 12  # weights, and at most two moments of the optimiser, in fp32


@dataclass(frozen=True)
class RunTimes:
    """Seconds that a run takes for each image it trains on, and for all else: its start, its measurements."""

    image_seconds: float
    other_seconds: float


@dataclass(frozen=True)
class Estimates:
    """What finished runs tell: by kind of run its pace, by network its number of parameters."""

    paces: Mapping[Kind, RunTimes]
    num_params: Mapping[str, int]

    def job_seconds(self, entry: Entry) -> float | None:
        """The remaining time of a job; None if no run of its kind has finished."""
        pace = self.paces.get(kind_of(entry.job))
        if pace is None:
            return None
        config = entry.job.config
        num_steps = max(0, config.trainer.max_steps - entry.steps_before)
        num_images: int = num_steps * config.data.batch_size * config.trainer.accumulate_grad_batches
        return num_images * pace.image_seconds + pace.other_seconds

    def job_bytes(self, job: Job) -> int | None:
        """How much disk the checkpoints of `job` take; None where no run of its network has finished."""
        count = self.num_params.get(job.config.model.name)
        return None if count is None else CHECKPOINTS_KEPT * BYTES_PER_PARAM * count


def kind_of(job: Job) -> Kind:
    """The properties in records that determine the time of a step."""
    return job.config.data.name, job.config.model.name, DEVICES.get(job.accelerator, job.accelerator)


def read_estimates(log_dir: Path) -> Estimates:
    """Read the finished runs below `log_dir`; records that cannot be read teach nothing."""
    paces: dict[Kind, list[RunTimes]] = {}
    num_params: dict[str, int] = {}
    for record in _finished(log_dir):
        data, model = record.data.get("name"), record.model.get("name")
        if not isinstance(data, str) or not isinstance(model, str):
            continue
        kind = data, model, (record.device or "").partition(":")[0]
        pace = _pace(record)
        if pace is not None:
            paces.setdefault(kind, []).append(pace)
        if record.model.get("num_params") is not None:
            num_params[model] = record.model["num_params"]
    return Estimates({kind: _typical(each) for kind, each in paces.items()}, num_params)


def _pace(record: Record) -> RunTimes | None:
    """Seconds for an image and for all else, of the steps that the run took; None where the record has no times."""
    data, trainer = record.config.get("data", {}), record.config.get("trainer", {})
    counts = record.steps, data.get("batch_size"), trainer.get("accumulate_grad_batches")
    if not all(type(count) is int and 0 < count <= MOST_STEPS for count in counts) or not record.segments:
        return None
    training = sum(segment.training_seconds for segment in record.segments)
    return RunTimes(training / math.prod(counts), max(0.0, (record.wall_seconds or 0.0) - training))


def _typical(paces: Sequence[RunTimes]) -> RunTimes:
    return RunTimes(
        statistics.median(pace.image_seconds for pace in paces), statistics.median(pace.other_seconds for pace in paces)
    )


def sweep_seconds(seconds: Sequence[float], num_devices: Sequence[int], num_places: int) -> float:
    """How long jobs of these lengths, each over so many devices, take over `num_places`."""
    work = sum(length * count for length, count in zip(seconds, num_devices, strict=True))
    return max([work / max(1, num_places), *seconds], default=0.0)


def left(entry: Entry, progress: Progress | None, known: Estimates, typical_seconds: float | None) -> float | None:
    """How long an entry of the queue still takes; `typical_seconds` stands in where its kind is unknown."""
    if entry.state not in (State.RUNNING, State.WAITING):
        return 0.0
    if progress is not None and progress.seconds_left is not None:
        return progress.seconds_left
    whole = known.job_seconds(entry) or typical_seconds
    return None if whole is None else max(0.0, whole - entry.running_seconds())


def free_bytes(directory: Path) -> int:
    """The free disk space where `directory` is or will be."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _finished(log_dir: Path) -> list[Record]:
    found = []
    for directory in find_records(log_dir):
        try:
            record = read_record(directory)
        except InputError:
            continue
        if record.status == "finished":
            found.append(record)
    return found
