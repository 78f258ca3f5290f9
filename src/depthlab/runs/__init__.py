"""Runs: made, opened, listed and compared.

The package itself is called as a function, `depthlab.runs("logs")`, and needs no torch for that.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def list_runs(folder: str | Path = "logs") -> Any:
    """A row for each run below `folder`: a pandas table where pandas is installed, else a list of dicts.

    Columns: directory, status, steps, those keys of the configurations that differ between the runs, then the metrics.
    A run whose record is damaged has the status "damaged" with the reason, and nothing else.

    Raises:
        InputError: there is no such folder, or no run in it.
    """
    # Imported here: a command prepares for signals first, with a module of this package.
    from depthlab.config.identity import flatten
    from depthlab.errors import InputError
    from depthlab.records.record import find_records, read_record

    root = Path(folder)
    records, damaged = {}, []
    for directory in find_records(root) if root.is_dir() else ():
        try:
            records[directory] = read_record(directory)
        except InputError as error:
            damaged.append({"directory": str(directory), "status": f"damaged: {error}"})
    if not (records or damaged):
        raise InputError(f"{folder} holds no runs. Give the folder that runs were written to.")
    configs = {directory: flatten(record.config) for directory, record in records.items()}
    names = dict.fromkeys(["model.name", "data.name", "seed", *_differing(*configs.values())])
    rows = [
        {
            "directory": str(directory),
            "status": record.status,
            "steps": record.steps,
            **{name: configs[directory].get(name) for name in names},
            **record.metrics,
        }
        for directory, record in records.items()
    ]
    return as_table([*rows, *damaged])


def diff(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """The keys in which the configurations of two runs differ, with both values; None where a run has no such key.

    Args:
        a, b: directories of runs, or runs that `open_run` returned.
    """
    from depthlab.config.identity import flatten

    first, second = (flatten((run if hasattr(run, "record") else _Named(run)).record.config) for run in (a, b))
    return {name: (first.get(name), second.get(name)) for name in _differing(first, second)}


class _Named:
    def __init__(self, directory: str | Path) -> None:
        from depthlab.records.record import read_record

        self.record = read_record(Path(directory))


def as_table(rows: list[dict[str, Any]]) -> Any:
    """A pandas table where pandas is installed, else the rows themselves."""
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def _differing(*configs: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if any(config.get(name) != configs[0].get(name) for config in configs)]


class _Callable(ModuleType):
    """`depthlab.runs` is this package and, in a notebook, the list of runs."""

    def __call__(self, folder: str | Path = "logs") -> Any:
        return list_runs(folder)


sys.modules[__name__].__class__ = _Callable
