"""The record of a run, record.json: what it was, on what it ran, what came out. Reports read nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from depthlab.errors import InputError
from depthlab.records.atomic_files import replacing

VERSION = 1
STATUSES = ("running", "finished", "failed", "diverged")
FILE_NAME = "record.json"

# The keys that reports and other people's scripts rely on, with their types; None where nothing is known yet.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "status": str,
    "name": str,
    "seed": int,
    "command": str,
    "config": dict,
    "model": dict,
    "data": dict,
    "metrics": dict,
    "steps": int,
}
# Of the configuration in a record, where they are there.
SECTIONS = ("model", "data", "augment", "optimizer", "schedule", "trainer", "paths")


def write_record(directory: Path, record: dict[str, Any]) -> None:
    """Put `record` in `directory`, in place of the one before. NaN and infinity become null: JSON has neither."""
    text = json.dumps({"version": VERSION, **_finite(record)}, indent=2, allow_nan=False)
    with replacing(directory / FILE_NAME) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_record(directory: Path) -> dict[str, Any]:
    """The record in `directory`.

    Raises:
        InputError: there is none, or it is cut short, of a newer version, or lacks what a record must have.
    """
    path = directory / FILE_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{directory} is not a run directory: it holds no {FILE_NAME}.") from None
    except NotADirectoryError:
        raise InputError(f"{directory} is not a directory.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}). Delete the run's directory and repeat the run.") from None
    _check(record, path)
    return dict(record)


def find_records(root: Path) -> Iterator[Path]:
    """Every run directory below `root`, or `root` itself, in the order of their names; none that was set aside."""
    for path in sorted(root.rglob(FILE_NAME)):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path.parent


def _check(record: Any, path: Path) -> None:
    if not isinstance(record, dict) or not isinstance(record.get("version"), int):
        raise InputError(f"{path} is not a record of a run: it has no version number.")
    if record["version"] > VERSION:
        raise InputError(
            f"{path} has version {record['version']}; this depthlab reads up to {VERSION}. Use a newer depthlab."
        )
    for key, kind in REQUIRED.items():
        if not isinstance(record.get(key), kind) or isinstance(record.get(key), bool):
            raise InputError(f"{path} is not a whole record: {key!r} is missing or of the wrong type.")
    for name, value in record["metrics"].items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{path} is not a whole record: the metric {name!r} is {value!r}, which is no number.")
    for section in SECTIONS:
        if not isinstance(record["config"].get(section, {}), dict):
            raise InputError(f"{path} is not a whole record: {section!r} of its configuration is of the wrong type.")
    if record["status"] not in STATUSES:
        raise InputError(f"{path}: status {record['status']!r} is none of {', '.join(STATUSES)}.")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
