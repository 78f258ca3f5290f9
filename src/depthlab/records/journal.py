"""The record of a run while it grows, from the start of a segment to the end of the run."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from depthlab.config.identity import Identity
from depthlab.errors import InputError
from depthlab.records.atomic_files import replacing
from depthlab.records.directory import check_still_ours
from depthlab.records.environment import git_state, machine, source_diff, versions
from depthlab.records.record import Record, Segment, write_record
from depthlab.records.safe_files import read_inside

DIFF = "code.diff"
# What makes a continuation worth a line: it goes on under something else than the segment before.
COMPARED = ("device", "num_threads", "compiled", "captured", "versions", "git", "machine")
# Written as null while nothing is known: scripts of others rely on them.
ALWAYS = (
    *("status", "name", "seed", "run", "recipe", "command", "config", "model", "data", "weights", "metrics", "steps"),
    *("wall_seconds", "images_per_second", "precision", "num_processes", "device", "num_threads", "compiled"),
    *("captured", "versions", "git", "started_at", "finished_at", "stretches", "failure", "divergence"),
)
SEGMENT_ALWAYS = (
    *("started_at", "from_step", "to_step", "training_seconds", "wall_seconds", "device", "num_threads", "compiled"),
    *("captured", "versions", "git"),
)


class Times(Protocol):
    """What a stopwatch knows of a segment: seconds of training, and how many of them the first batch took.

    Kernels are chosen, compiled and captured in that batch, which may be a whole block of steps.
    """

    warm_up_steps: int
    warm_up_seconds: float

    @property
    def seconds(self) -> float:
        """All of them so far."""


class Journal:
    """Keeps record.json true while a run goes on.

    Args:
        directory: the run's.
        identity: the run's.
        config: the resolved configuration.
        command: what a person types to get this run.
        device: on what this segment runs.
        num_threads: CPU threads of this segment.
        first_step: the step this segment starts from.
        images_per_step: images in one update.
        existing: the record that earlier segments left; None, or empty, without one.
        writes: False in the processes beside the first, which write nothing.
    """

    def __init__(
        self,
        directory: Path,
        identity: Identity,
        config: dict[str, Any],
        command: str,
        device: str,
        num_threads: int,
        first_step: int,
        images_per_step: int,
        existing: Record | Mapping[str, Any] | None,
        writes: bool,
    ) -> None:
        self.directory = directory
        self.images_per_step = images_per_step
        self.writes = writes
        self._started = time.monotonic()
        before = existing if isinstance(existing, Record) else None
        environment: dict[str, Any] = {
            "device": device,
            "num_threads": num_threads,
            "compiled": config["trainer"]["compile"],
            "captured": False,
            "versions": versions(),
            "git": git_state(),
            "machine": machine(),
        }
        segment = Segment(
            from_step=first_step, to_step=first_step, started_at=_now(), present=SEGMENT_ALWAYS, **environment
        )
        self.record = Record(
            status="running",
            name=config["name"],
            seed=config["seed"],
            command=command,
            config=config,
            model={},
            data={},
            metrics={},
            steps=first_step,
            run=identity.directory,
            recipe=identity.recipe,
            weights=before.weights if before else None,
            extended_from=before.extended_from if before else None,
            wall_seconds=0.0,
            precision=config["trainer"]["precision"],
            num_processes=config["trainer"]["devices"],
            started_at=(before.started_at if before else None) or segment.started_at,
            segments=(*(before.segments if before else ()), segment),
            unknown=before.unknown if before else {},
            present=ALWAYS,
            **environment,
        )

    def changes(self) -> list[str]:
        """What this segment runs on that the one before did not, a line each."""
        if len(self.record.segments) < 2:
            return []
        before, now = (segment.to_dict() for segment in self.record.segments[-2:])
        both = [key for key in COMPARED if key in before and key in now]  # older records have not all of them
        return [f"{key} was {before[key]} and is now {now[key]}" for key in both if before[key] != now[key]]

    def update(self, **values: Any) -> None:
        """Set fields of the record, which is written with the next `note`, `close` or `write`."""
        self.record = replace(self.record, **values)

    def update_segment(self, **values: Any) -> None:
        """Set fields of the present segment."""
        self.update(segments=(*self.record.segments[:-1], replace(self.record.segments[-1], **values)))

    def record_captured(self, captured: bool) -> None:
        """Whether this segment replays captured steps, which is known only when everything is built."""
        self.update(captured=captured)
        self.update_segment(captured=captured)

    def record_code(self, code: dict[str, Any]) -> None:
        """The source that this segment runs: its fingerprint, and the digests of its files.

        Where the source differs from its commit, that difference is kept as a file of the directory.
        """
        diff = source_diff() if self.writes and (self.record.git or {}).get("dirty") else ""
        kept = {"diff": self._keep_diff(diff)} if diff else {}
        self.update(code={**code, **kept})
        self.update_segment(code={"fingerprint": code["fingerprint"], **kept})  # the digests once, in the record

    def _keep_diff(self, diff: str) -> str:
        """The name of the file that holds it now. That of an earlier segment stays."""
        path, first_step = self.directory / DIFF, self.record.segments[-1].from_step
        if first_step and path.exists() and self._read(path.name) != diff.encode():
            path = path.with_stem(f"{path.stem}-from-step-{first_step:08d}")
        with replacing(path) as temporary:
            temporary.write_text(diff, encoding="utf-8")
        return path.name

    def _read(self, name: str) -> bytes | None:
        try:
            return read_inside(self.directory, name)
        except (OSError, InputError):  # no file that a run has written
            return None

    def note(self, step: int, times: Times) -> None:
        """Write that the run is at `step`, with the seconds this segment has spent training."""
        self.update_segment(
            to_step=step,
            training_seconds=times.seconds,
            warm_up_steps=times.warm_up_steps,
            warm_up_seconds=times.warm_up_seconds,
            wall_seconds=time.monotonic() - self._started,
        )
        wall_seconds = sum(segment.wall_seconds for segment in self.record.segments)
        self.update(steps=step, wall_seconds=wall_seconds, images_per_second=self._images_per_second())
        self.write()

    def close(self, status: str, step: int, times: Times, **results: Any) -> None:
        """Write how the run ended, with what came out."""
        self.update(**results, status=status, finished_at=_now())
        self.note(step, times)

    def _images_per_second(self) -> float | None:
        """Over all segments; without their warm-up, unless there was nothing else."""
        segments = self.record.segments
        steps = sum(part.to_step - part.from_step for part in segments)
        seconds = sum(part.training_seconds for part in segments)
        warm_steps = sum(part.warm_up_steps for part in segments)
        if steps > warm_steps:
            steps, seconds = steps - warm_steps, seconds - sum(part.warm_up_seconds for part in segments)
        return steps * self.images_per_step / seconds if seconds > 0 else None

    def write(self) -> None:
        """Put the record on disk as it stands.

        Raises:
            Held: the directory was removed, and may be another process's now.
        """
        if self.writes:
            check_still_ours(self.directory)
            write_record(self.directory, self.record)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
