"""A copy of runs that is fit to be committed: a few files, and without a word about the machine's folders."""

from __future__ import annotations

import csv
import io
import shlex
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from depthlab.errors import InputError
from depthlab.records.arrays import array_names, load_arrays
from depthlab.records.curve_file import COLUMNS, Curves, curves_text, read_curves
from depthlab.records.provenance import dirty_runs, sources
from depthlab.records.published_files import Arrays, Rows, write_published
from depthlab.records.record import Record, find_records, read_record

MAX_POINTS = 2000  # of each curve
DRAWN_MISTAKES = 8
PLACES = ("data.folder", "model.weights")  # keys whose value may be a path
NEUTRAL_PATHS = {"data_dir": "data", "log_dir": "logs"}
NAMED = 3  # runs, in a message


@dataclass(frozen=True)
class _Copy:
    """One run as it is published."""

    record: Record
    curves: Rows
    arrays: Mapping[str, Arrays]


def publish(
    source: Path, target: Path, allow_dirty: bool = False, allow_mixed: bool = False, into: Path | None = None
) -> list[Path]:
    """Copy every finished or diverged run below `source` into the folder `target`, beside those that are there.

    Curves of more than 2,000 points keep every k-th and the last; the record's key `published` says so. Folders of
    data and logs are replaced by their defaults. Checkpoints, events and logs stay behind.

    Args:
        source: folder of a sweep.
        target: folder of the published runs; made if it is not there.
        allow_dirty: whether runs may be of source that no commit has.
        allow_mixed: whether the runs may be of different source.
        into: the copy of `target` that is written, if another one; see `replacing_folder`.

    Returns:
        The copies, as `find_records(target)` calls them.

    Raises:
        InputError: there is no such run, a run that is already in `target` differs from its new copy, a file is
            damaged, or the runs are of a dirty tree or of different source and that was not allowed.
    """
    copies = {directory.name: _published(directory, record) for directory, record in _done(source)}
    if not copies:
        raise InputError(f"{source} holds no finished run.")
    before = {directory.name: _as_published(directory) for directory in find_records(target)} if target.exists() else {}
    for name, copy in copies.items():
        if name in before and before[name].record.metrics != copy.record.metrics:
            raise InputError(
                f"{target / name} holds other results of this run. Remove it if the new ones are to replace it."
            )
    every = dict(sorted({**before, **copies}.items()))
    _check_source([copy.record for copy in every.values()], allow_dirty, allow_mixed)
    into = into or target
    into.mkdir(parents=True, exist_ok=True)
    write_published(
        into,
        _files_once({name: copy.record.to_dict() for name, copy in every.items()}),
        {name: copy.curves for name, copy in every.items()},
        {f"{name}/{kind}": arrays for name, copy in every.items() for kind, arrays in copy.arrays.items()},
    )
    return [target / name for name in copies]


def _files_once(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The records, of which the first alone of each source has the digests of its files: they are most of a record."""
    seen: set[Any] = set()
    for record in records.values():
        code = record.get("code")
        if isinstance(code, dict) and (fingerprint := str(code.get("fingerprint"))) in seen:
            record["code"] = {key: value for key, value in code.items() if key != "files"}
        elif isinstance(code, dict):
            seen.add(fingerprint)
    return records


def _done(source: Path) -> Iterable[tuple[Path, Record]]:
    for directory in find_records(source):
        record = read_record(directory)
        if record.is_done:
            yield directory, record


def _check_source(records: list[Record], allow_dirty: bool, allow_mixed: bool) -> None:
    dirty = dirty_runs(records)
    if dirty and not allow_dirty:
        names = ", ".join(str(record.run) for record in dirty[:NAMED])
        raise InputError(
            f"{len(dirty)} of {len(records)} runs are of source that differed from its commit: {names}"
            f"{' and others' if len(dirty) > NAMED else ''}.\nCommit and repeat them with rerun=true, or give "
            "--allow-dirty; the page then says so."
        )
    found = sources(records)
    if len(found) > 1 and not allow_mixed:
        raise InputError(
            f"These {len(records)} runs are of different source: {', '.join(found[:NAMED])}"
            f"{' and others' if len(found) > NAMED else ''}.\nMake them all from one commit, or give --allow-mixed; "
            "the page then says so."
        )


def _as_published(directory: Path) -> _Copy:
    """A run of the target, unchanged."""
    header, *rows = csv.reader(io.StringIO(curves_text(directory)))
    return _Copy(read_record(directory), (header, rows), _arrays(directory, lambda name, arrays: arrays))


def _published(directory: Path, record: Record) -> _Copy:
    """A run as it is to be published."""
    curves = read_curves(directory)
    arrays = _arrays(directory, _shorten)
    content = record.to_dict()
    content["run"] = directory.name
    content["config"] = _without_folders(record.config)
    if record.weights and isinstance(record.weights.get("source"), str):
        content["weights"] = {**record.weights, "source": PurePath(record.weights["source"]).name}
    content["command"] = without_places(record.command)
    points = {name: len(curve) for name, curve in curves.items()}
    content["published"] = {"max_points": MAX_POINTS, "points_before": points}
    return _Copy(Record.from_dict(content), _thinned_rows(curves), arrays)


def _arrays(directory: Path, shorten: Callable[[str, Arrays], Arrays]) -> dict[str, Arrays]:
    found = {}
    for name in array_names(directory):
        try:
            found[name] = shorten(name, load_arrays(directory, name))
        except (OSError, ValueError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}"
            raise InputError(f"{directory}: the arrays {name} are damaged ({reason}).") from None
    return found


def _shorten(name: str, arrays: Arrays) -> Arrays:
    """Keep the mistakes that the report draws, and three digits of each confidence: they are most of a copy's size."""
    if name == "mistakes":
        return {key: values[:DRAWN_MISTAKES] for key, values in arrays.items()}
    if name == "predictions" and "confidence" in arrays:
        return {**arrays, "confidence": arrays["confidence"].round(3)}
    return arrays


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with folders of data and weights by their names alone, as a run's identity has them."""
    found = {**config, "paths": NEUTRAL_PATHS}
    for section, key in (place.split(".") for place in PLACES):
        values = found.get(section) or {}
        if isinstance(values.get(key), str):
            found[section] = {**values, key: PurePath(values[key]).name}
    return found


def without_places(command: str) -> str:
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


def _thinned_rows(curves: Curves) -> Rows:
    """One row a step; a step at which nothing was kept has none."""
    rows: dict[int, dict[str, str]] = {}
    for name, curve in curves.items():
        for step, value in _thinned(curve):
            rows.setdefault(step, {})[name] = repr(value)
    header = list(dict.fromkeys([*COLUMNS, *curves]))
    return header, [[str(step), *(rows[step].get(name, "") for name in header[1:])] for step in sorted(rows)]


def _thinned(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    every = -(-len(curve) // MAX_POINTS)
    kept = curve[every - 1 :: every]
    return kept if kept[-1] == curve[-1] else [*kept, curve[-1]]
