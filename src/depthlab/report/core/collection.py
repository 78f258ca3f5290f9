"""Reads the runs below some folders; a run whose numbers cannot be used is excluded and the reason is kept."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthlab.config.identity import REPETITION, flatten, identity_values, name_repetition
from depthlab.errors import InputError
from depthlab.records.record import Record, find_records, read_record
from depthlab.records.record_checks import MOST_STEPS, is_number
from depthlab.report.core.task_description import EMA, Task, read_task, split_of
from depthlab.shown_text import one_line

LONGEST_TEXT = 4000  # a command with many overrides

# Optional keys of a record and the types that a report can show.
OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "versions": dict,
    "git": dict,
    "divergence": dict,
    "extensions": dict,
    "metrics_ema": dict,
    "stopped_early": dict,
    "failure": dict,
    "wall_seconds": (int, float),
    "images_per_second": (int, float),
    "peak_memory_mib": (int, float),
    "num_processes": int,
}


Repetition = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One run: its directory, its record, its configuration with dotted keys, and what its task measures."""

    directory: Path
    record: Any
    config: dict[str, Any]
    task: Task

    @property
    def name(self) -> str:
        """The network's name with seed and fold, as lists show it."""
        return f"{self.network} {name_repetition(self.seed, self.fold)}"

    @property
    def network(self) -> str:
        """The network's name."""
        return str(self.record["model"]["name"])

    @property
    def depth(self) -> int:
        """Weighted layers; 0 for a network without such a number."""
        return int(self.record["model"].get("depth") or 0)

    @property
    def residual(self) -> bool | None:
        """Whether the network has shortcuts; None for one that is neither residual nor a plain twin."""
        residual: bool | None = self.record["model"].get("residual")
        return residual

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.record["seed"])

    @property
    def fold(self) -> int | None:
        """Which fold was held out; None without folds."""
        fold: int | None = flatten(self.record["config"]).get("data.fold")
        return fold

    @property
    def repetition(self) -> Repetition:
        """(seed,), or (seed, fold): by this, runs of different networks pair."""
        return (self.seed,) if self.fold is None else (self.seed, self.fold)

    @property
    def status(self) -> str:
        """running, finished, failed or diverged."""
        return str(self.record["status"])

    @property
    def planned_steps(self) -> int:
        """The number of steps that the configuration asks for."""
        return int(self.config.get("trainer.max_steps") or self.record["steps"])

    def value(self, key: str) -> float | None:
        """The final value of a metric such as `test/err`; None where the run has none."""
        metrics = (self.record.get("metrics_ema") or {}) if key.startswith(EMA) else self.record["metrics"]
        value = metrics.get(key.removeprefix(EMA))
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def num_images(self, key: str) -> int | None:
        """How many images of the key's split the run measured; None where the record does not say."""
        number = self.record["data"].get(f"num_{split_of(key)}")
        return number if isinstance(number, int) else None

    def identity(self) -> tuple[tuple[str, str], ...]:
        """What must be equal for two runs to be repetitions of each other: equal recipe, configuration and data."""
        return tuple(sorted((key, json.dumps(value)) for key, value in self.config.items()))


@dataclass(frozen=True)
class LeftOut:
    """Something that was found and not used."""

    what: str
    reason: str


@dataclass
class Collection:
    """Every run found below the folders, and everything that was left out."""

    runs: list[Run] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def with_status(self, *statuses: str) -> list[Run]:
        """The runs whose status is one of `statuses`."""
        return [run for run in self.runs if run.status in statuses]


def collect(folders: Sequence[Path]) -> Collection:
    """The runs below `folders`; what cannot be used is left out and named.

    Raises:
        InputError: a folder does not exist, or no run is left.
    """
    found = Collection()
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder. Give the folder of a sweep, such as logs/quickstart.")
        directories = [directory for directory in find_records(folder) if directory.resolve() not in seen]
        seen.update(directory.resolve() for directory in directories)
        if not directories:
            found.left_out.append(LeftOut(folder.name, "holds no record that was not read already"))
        for directory in directories:
            _add(found, directory, folder)
    _drop_duplicates(found)
    if not found.runs:
        raise InputError(_nothing_left(folders, found.left_out))
    return found


def _add(found: Collection, directory: Path, folder: Path) -> None:
    name = directory.name if directory == folder else str(directory.relative_to(folder))
    try:
        record = _shown(read_record(directory))
        task = read_task(record)
        _check(record, task)
        config = _identity_config(record)
    except InputError as error:
        # The path as it was given may name the machine, and the run is named already.
        found.left_out.append(LeftOut(name, str(error).replace(f"{directory}{os.sep}", "").rstrip(".")))
    except (OSError, RecursionError) as error:
        found.left_out.append(LeftOut(name, f"its record cannot be read ({type(error).__name__})"))
    except (TypeError, ValueError, AttributeError) as error:
        found.left_out.append(LeftOut(name, f"its configuration cannot be read ({error})"))
    else:
        found.runs.append(Run(directory, record, config, task))


def _shown(record: Record) -> Record:
    """The record with every text as it can be shown."""
    return Record.from_dict(_printable(record.to_dict()))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value, LONGEST_TEXT)
    if isinstance(value, dict):
        return {one_line(key, LONGEST_TEXT): _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list) else value


def _check(record: Any, task: Task) -> None:
    model, data = record["model"], record["data"]
    for where, key, kind in (
        (model, "name", str),
        (data, "name", str),
        (record, "recipe", str),
    ):
        if not isinstance(where.get(key), kind):
            raise InputError(f"the record is not whole: {key!r} is missing or of the wrong type")
    for key, kinds in (("depth", int | None), ("residual", bool | None)):  # null for networks without such a thing
        if not isinstance(model.get(key), kinds):
            raise InputError(f"the record is not whole: {key!r} is of the wrong type")
    for key, optional in OPTIONAL.items():
        value = record.get(key)
        if value is not None and (not isinstance(value, optional) or isinstance(value, bool)):
            raise InputError(f"the record is not whole: {key!r} is of the wrong type")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{key} is not finite")
    planned = flatten(record["config"]).get("trainer.max_steps")
    fold = flatten(record["config"]).get("data.fold")
    if fold is not None and not is_number(fold, MOST_STEPS):
        raise InputError(f"data.fold is {fold!r}, not the number of a fold")
    if planned is not None and not (isinstance(planned, int) and is_number(planned, MOST_STEPS)):
        raise InputError(f"trainer.max_steps is {planned!r}, not a number of steps")
    if record["status"] == "finished":
        _check_metrics(record, task)
        _check_steps(record, planned)


def _check_metrics(record: Any, task: Task) -> None:
    splits = ["train", *(["val"] if record["data"].get("num_val") else []), "test"]
    low, high = task.metric(task.primary).bounds
    for key in (f"{split}/{task.primary}" for split in splits):
        value = record["metrics"].get(key)
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{key} is not a number (NaN, infinite or absent) in a run that says finished")
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise InputError(f"{key} is {value!r}, which is not a possible {task.heading(key)}")


def _check_steps(record: Any, planned: int | None) -> None:
    """A finished run has taken every planned step, unless its record says at which step it was stopped and why."""
    stopped = record.get("stopped_early")
    if stopped is not None:
        if stopped.get("step") != record["steps"]:
            raise InputError(f"says stopped_early at step {stopped.get('step')!r}, but after {record['steps']} steps")
    elif planned is not None and record["steps"] != planned:
        raise InputError(f"says finished, but after {record['steps']} of {planned} steps")


def _identity_config(record: Any) -> dict[str, Any]:
    config = {key: value for key, value in identity_values(flatten(record["config"])).items() if key not in REPETITION}
    # The recipe's hash does not cover the data's fingerprint, but runs on different images are not repetitions.
    config |= {"recipe": record["recipe"], "data.fingerprint": record["data"].get("fingerprint")}
    config |= {"num_processes": record.get("num_processes")}
    if record.get("precision"):
        config["trainer.precision"] = record["precision"]
    return config


def _drop_duplicates(found: Collection) -> None:
    claims: dict[tuple[Any, ...], list[Run]] = {}
    for run in found.runs:
        claims.setdefault((run.identity(), run.repetition), []).append(run)
    for runs in claims.values():
        for run in _losers(runs):
            found.runs.remove(run)
            others = ", ".join(str(other.directory.name) for other in runs if other is not run)
            reason = f"{len(runs)} records claim to be this run ({run.name}); the others: {others}"
            found.left_out.append(LeftOut(run.directory.name, reason))


def _losers(runs: list[Run]) -> list[Run]:
    """All but the first of equal claims to one run; every claim where finished ones contradict each other."""
    best = [run for run in runs if run.status == "finished"] or runs
    same = all(run.record["metrics"] == best[0].record["metrics"] for run in best)
    return [run for run in runs if not (same and run is best[0])]


def _nothing_left(folders: Sequence[Path], left_out: list[LeftOut]) -> str:
    names = ", ".join(str(folder) for folder in folders)
    lines = [f"  {item.what}: {item.reason}" for item in left_out[:5]]
    more = [f"  and {len(left_out) - 5} more"] if len(left_out) > 5 else []
    return "\n".join([f"No run that can be reported below {names}:", *lines, *more])
