"""Reads the runs below some folders and sorts out those whose numbers cannot be used, each with its reason."""

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
from depthlab.records.record import find_records, read_record

METRICS = {
    "train/err": "training error",
    "train/err_running": "running training error",
    "val/err": "validation error",
    "test/err": "test error",
}


# What a record may lack but, where it is there, must be, so that a report can show it.
OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "versions": dict,
    "git": dict,
    "divergence": dict,
    "failure": dict,
    "wall_seconds": (int, float),
    "images_per_second": (int, float),
    "peak_memory_mib": (int, float),
    "num_processes": int,
}


Repetition = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One run: its directory, its record, and its configuration with dotted keys."""

    directory: Path
    record: dict[str, Any]
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """The network's name with seed and fold, as lists show it."""
        return f"{self.record['model']['name']} {name_repetition(self.seed, self.fold)}"

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

    def error(self, metric: str) -> float | None:
        """A final error in percent; None where the run has none, as for validation without validation images."""
        value = self.record["metrics"].get(metric)
        return None if value is None else float(value)

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
            found.left_out.append(LeftOut(folder.name, "holds no record.json that was not read already"))
        for directory in directories:
            _add(found, directory, folder)
    _drop_duplicates(found)
    if not found.runs:
        raise InputError(_nothing_left(folders, found.left_out))
    return found


def _add(found: Collection, directory: Path, folder: Path) -> None:
    name = directory.name if directory == folder else str(directory.relative_to(folder))
    try:
        record = read_record(directory)
        _check(record)
        config = _identity_config(record)
    except InputError as error:
        # The path as it was given may name the machine, and the run is named already.
        found.left_out.append(LeftOut(name, str(error).replace(f"{directory}{os.sep}", "").rstrip(".")))
    except (OSError, RecursionError) as error:
        found.left_out.append(LeftOut(name, f"record.json cannot be read ({type(error).__name__})"))
    except (TypeError, ValueError, AttributeError) as error:
        found.left_out.append(LeftOut(name, f"its configuration is none of ours ({error})"))
    else:
        found.runs.append(Run(directory, record, config))


def _check(record: dict[str, Any]) -> None:
    model, data = record["model"], record["data"]
    for where, key, kind in (
        (model, "name", str),
        (data, "name", str),
        (record, "recipe", str),
    ):
        if not isinstance(where.get(key), kind):
            raise InputError(f"the record is not whole: {key!r} is missing or of the wrong type")
    for key, kinds in (("depth", int | None), ("residual", bool | None)):  # null for networks without such a thing
        if key not in model or not isinstance(model[key], kinds):
            raise InputError(f"the record is not whole: {key!r} is missing or of the wrong type")
    for key, optional in OPTIONAL.items():
        value = record.get(key)
        if value is not None and (not isinstance(value, optional) or isinstance(value, bool)):
            raise InputError(f"the record is not whole: {key!r} is of the wrong type")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{key} is not finite")
    planned = flatten(record["config"]).get("trainer.max_steps")
    fold = flatten(record["config"]).get("data.fold")
    if fold is not None and not isinstance(fold, int):
        raise InputError(f"data.fold is {fold!r}, which is no number of a fold")
    if planned is not None and not isinstance(planned, int):
        raise InputError(f"trainer.max_steps is {planned!r}, which is no number of steps")
    if record["status"] == "finished":
        _check_metrics(record, planned)


def _check_metrics(record: dict[str, Any], planned: int | None) -> None:
    wanted = [metric for metric in METRICS if metric != "val/err" or record["data"].get("num_val")]
    for metric in wanted:
        value = record["metrics"].get(metric)
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{metric} is not a number (NaN, infinite or absent) in a run that says finished")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise InputError(f"{metric} is {value!r}, which is no error in percent")
    if planned is not None and record["steps"] != planned:
        raise InputError(f"says finished, but after {record['steps']} of {planned} steps")


def _identity_config(record: dict[str, Any]) -> dict[str, Any]:
    config = {key: value for key, value in identity_values(flatten(record["config"])).items() if key not in REPETITION}
    # The data's fingerprint is no part of the recipe's hash, yet runs on different images are no repetitions.
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
