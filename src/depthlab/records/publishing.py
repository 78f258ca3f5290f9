"""A copy of runs that is fit to be committed: small, and without a word about the machine's folders."""

from __future__ import annotations

import csv
import shlex
import shutil
from pathlib import Path, PurePath
from typing import Any

from depthlab.errors import InputError
from depthlab.records.arrays import arrays_path, load_arrays, write_arrays
from depthlab.records.curve_file import COLUMNS, Curves, read_curves
from depthlab.records.curve_file import FILE_NAME as CURVES_NAME
from depthlab.records.record import find_records, read_record, write_record

MAX_POINTS = 2000  # of each curve
DIAGNOSTICS = "diagnostics"
DRAWN_MISTAKES = 8
PLACES = ("data.folder", "model.weights")  # keys whose value may be a path
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
        shorten_arrays(copy)
    del record["version"]
    record["config"] = {**record["config"], "paths": NEUTRAL_PATHS}
    _shorten_folder(record["config"])
    _hide_the_place_of_weights(record)
    record["command"] = _without_places(record["command"])
    points = {name: len(curve) for name, curve in curves.items()}
    record["published"] = {"max_points": MAX_POINTS, "points_before": points}
    write_record(copy, record)
    return copy


def shorten_arrays(copy: Path) -> None:
    """Keep the mistakes that the report draws, and three digits of each confidence: they are most of a copy's size."""
    if arrays_path(copy, "predictions").exists():
        arrays = load_arrays(copy, "predictions")
        write_arrays(copy, "predictions", **{**arrays, "confidence": arrays["confidence"].round(3)})
    if arrays_path(copy, "mistakes").exists():
        arrays = load_arrays(copy, "mistakes")
        write_arrays(copy, "mistakes", **{name: values[:DRAWN_MISTAKES] for name, values in arrays.items()})


def _without_places(command: str) -> str:
    """A command without overrides of where things lie; files and folders, by which data are named, by name alone."""
    try:
        words = shlex.split(command)
    except ValueError:  # an open quotation mark, which no shell would have taken
        words = command.split()
    kept = [word for word in words if not word.lstrip("+~").startswith(("paths.", "hydra."))]
    return shlex.join(_by_name(word) for word in kept)


def _by_name(word: str) -> str:
    """A word or an override's value that is a path, by its name alone. Grids of choices (model/a,b) hold none."""
    key, is_override, value = word.partition("=")
    path = value if is_override else word
    if not (path.startswith(("/", "~")) or (key.lstrip("+") in PLACES and "/" in path)):
        return word
    return f"{key}={PurePath(path).name}" if is_override else PurePath(path).name


def _shorten_folder(config: dict[str, Any]) -> None:
    """A folder of images by its name alone, as a run's identity has it."""
    data = config["data"]
    if "folder" in data:
        config["data"] = {**data, "folder": PurePath(data["folder"]).name}


def _hide_the_place_of_weights(record: dict[str, Any]) -> None:
    """The name of a file or folder is enough: its content is in the record."""
    model, started_from = record["config"].get("model") or {}, record.get("weights")
    if model.get("weights"):
        record["config"]["model"] = {**model, "weights": Path(model["weights"]).name}
    if started_from:
        record["weights"] = {**started_from, "source": Path(started_from["source"]).name}


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
