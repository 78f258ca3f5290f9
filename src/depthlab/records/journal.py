"""The record of a run as it grows, from the start of a stretch to the end of the run."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any, Protocol

from depthlab.config.identity import Identity
from depthlab.records.environment import git_state, versions
from depthlab.records.record import write_record

# What makes a continuation worth a word: it goes on under something else than the stretch before.
COMPARED = ("device", "num_threads", "compiled", "captured", "versions", "git")


class Times(Protocol):
    """What a stopwatch knows of a stretch: seconds of training, and how many of them the first batch took.

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
        device: on what this stretch runs.
        num_threads: CPU threads of this stretch.
        first_step: the step this stretch starts from.
        images_per_step: images in one update.
        existing: the record that earlier stretches left, or {}.
        writes: False in the processes beside the first, which keep quiet.
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
        existing: dict[str, Any],
        writes: bool,
    ) -> None:
        self.directory = directory
        self.images_per_step = images_per_step
        self.writes = writes
        self._started = time.monotonic()
        environment = {
            "device": device,
            "num_threads": num_threads,
            "compiled": config["trainer"]["compile"],
            "captured": False,
            "versions": versions(),
            "git": git_state(),
        }
        stretch = {
            "started_at": _now(),
            "from_step": first_step,
            "to_step": first_step,
            "training_seconds": 0.0,
            "wall_seconds": 0.0,
            **environment,
        }
        self.record: dict[str, Any] = {
            "status": "running",
            "name": config["name"],
            "seed": config["seed"],
            "run": identity.directory,
            "recipe": identity.recipe,
            "command": command,
            "config": config,
            "model": {},
            "data": {},
            "weights": existing.get("weights"),
            "metrics": {},
            "steps": first_step,
            "wall_seconds": 0.0,
            "images_per_second": None,
            "precision": config["trainer"]["precision"],
            "num_processes": config["trainer"]["devices"],
            **environment,
            "started_at": existing.get("started_at", stretch["started_at"]),
            "finished_at": None,
            "stretches": [*existing.get("stretches", []), stretch],
            "failure": None,
            "divergence": None,
        }

    def changes(self) -> list[str]:
        """What this stretch runs on that the one before did not, a line each."""
        stretches = self.record["stretches"]
        if len(stretches) < 2:
            return []
        before, now = stretches[-2], stretches[-1]
        both = [key for key in COMPARED if key in before]  # a record of an older version has not all of them
        return [f"{key} was {before[key]} and is now {now[key]}" for key in both if before[key] != now[key]]

    def record_captured(self, captured: bool) -> None:
        """Whether this stretch replays captured steps, which is known only when everything is built."""
        self.record["captured"] = self.record["stretches"][-1]["captured"] = captured

    def note(self, step: int, times: Times) -> None:
        """Write that the run is at `step`, with the seconds this stretch has spent training."""
        stretches = self.record["stretches"]
        stretches[-1]["to_step"] = step
        stretches[-1]["training_seconds"] = times.seconds
        stretches[-1]["warm_up_steps"] = times.warm_up_steps
        stretches[-1]["warm_up_seconds"] = times.warm_up_seconds
        stretches[-1]["wall_seconds"] = time.monotonic() - self._started
        self.record["steps"] = step
        self.record["wall_seconds"] = sum(part["wall_seconds"] for part in stretches)
        self.record["images_per_second"] = self._images_per_second()
        self.write()

    def close(self, status: str, step: int, times: Times, **results: Any) -> None:
        """Write how the run ended, with what came out."""
        self.record.update(results, status=status, finished_at=_now())
        self.note(step, times)

    def _images_per_second(self) -> float | None:
        """Over all stretches; without their warm-up, unless there was nothing else."""
        stretches = self.record["stretches"]
        steps = sum(part["to_step"] - part["from_step"] for part in stretches)
        seconds = sum(part["training_seconds"] for part in stretches)
        warm = [(part.get("warm_up_steps", 0), part.get("warm_up_seconds", 0.0)) for part in stretches]
        if steps > sum(number for number, _ in warm):
            steps, seconds = steps - sum(number for number, _ in warm), seconds - sum(spent for _, spent in warm)
        return steps * self.images_per_step / seconds if seconds > 0 else None

    def write(self) -> None:
        """Put the record on disk as it stands."""
        if self.writes:
            write_record(self.directory, self.record)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
