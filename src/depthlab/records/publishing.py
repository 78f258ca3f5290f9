"""A copy of runs that is fit to be committed: small, and without a word about the machine's folders."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path, PurePath
from typing import Any

from depthlab.errors import InputError
from depthlab.records.curves import COLUMNS, Curves, read_curves
from depthlab.records.curves import FILE_NAME as CURVES_NAME
from depthlab.records.record import find_records, read_record, write_record

MAX_POINTS = 2000  # of each curve
DIAGNOSTICS = "diagnostics"
FOLDER = "data.folder="
NEUTRAL_PATHS = {"data_dir": "data", "log_dir": "logs"}


def publish(source: Path, target: Path) -> list[Path]:
    """Copy every finished or diverged run below `source` into `target`, and return the copies.

    Curves of more than 2,000 points keep every k-th and the last; the record's key `published` says so. Folders of
    data and logs are replaced by their defaults. Checkpoints, events and logs stay behind.

    Raises:
        InputError: there is no such run, or a run that is already in `target` differs from its new copy.
    """
    copies = []
    for directory in find_records(source):
        record = read_record(directory)
        if record["status"] not in ("finished", "diverged"):
            continue
        copy = target / directory.name
        if copy.exists() and read_record(copy)["metrics"] != record["metrics"]:
            raise InputError(f"{copy} holds other results of this run. Remove it if the new ones are to replace it.")
        copies.append(_copy(directory, record, copy))
    if not copies:
        raise InputError(f"{source} holds no finished run.")
    return copies


def _copy(directory: Path, record: dict[str, Any], copy: Path) -> Path:
    copy.mkdir(parents=True, exist_ok=True)
    curves = read_curves(directory)
    _write_curves(copy / CURVES_NAME, curves)
    if (directory / DIAGNOSTICS).is_dir():
        shutil.copytree(directory / DIAGNOSTICS, copy / DIAGNOSTICS, dirs_exist_ok=True)
    del record["version"]
    record["config"] = {**record["config"], "paths": NEUTRAL_PATHS}
    _shorten_folder(record["config"])
    words = [word for word in record["command"].split() if not word.startswith("paths.")]
    record["command"] = " ".join(
        f"{FOLDER}{PurePath(word).name}" if word.startswith(FOLDER) and "/" in word else word for word in words
    )
    points = {name: len(curve) for name, curve in curves.items()}
    record["published"] = {"max_points": MAX_POINTS, "points_before": points}
    write_record(copy, record)
    return copy


def _shorten_folder(config: dict[str, Any]) -> None:
    """A folder of images by its name alone, as a run's identity has it."""
    data = config["data"]
    if "folder" in data:
        config["data"] = {**data, "folder": PurePath(data["folder"]).name}


def _write_curves(path: Path, curves: Curves) -> None:
    """One row a step; a step at which nothing was kept has none."""
    rows: dict[int, dict[str, str]] = {}
    for name, curve in curves.items():
        for step, value in _thinned(curve):
            rows.setdefault(step, {})[name] = repr(value)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({"step": step, **rows[step]} for step in sorted(rows))


def _thinned(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    every = -(-len(curve) // MAX_POINTS)
    kept = curve[every - 1 :: every]
    return kept if kept[-1] == curve[-1] else [*kept, curve[-1]]
