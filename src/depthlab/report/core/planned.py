"""Runs that a sweep was launched for and that have left no record yet, from the configurations it froze."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from depthlab.config.identity import flatten, name_repetition
from depthlab.records.record import FILE_NAME, MOST_BYTES
from depthlab.records.safe_files import read_inside
from depthlab.runs.frozen import FOLDER


def planned_runs(folders: Sequence[Path]) -> list[str]:
    """The names, such as `plain20 seed 3`, of the runs that were frozen below `folders` and have no record."""
    found: dict[Path, tuple[str, int, int]] = {}
    for folder in folders:
        for directory, network, seed, fold in _frozen(folder):
            if not (folder / directory / FILE_NAME).exists():
                found[folder / directory] = (network, seed, fold)
    return [
        f"{network} {name_repetition(seed, None if fold < 0 else fold)}"
        for network, seed, fold in sorted(found.values())
    ]


def _frozen(folder: Path) -> Iterator[tuple[str, str, int, int]]:
    """Directory, network, seed and fold (-1: none) of each run; a file that is damaged says nothing about the plan."""
    for path in sorted(folder.glob(f"{FOLDER}/*/configs/*.json")):
        try:
            frozen = json.loads(read_inside(folder, str(path.relative_to(folder)), MOST_BYTES).decode("utf-8"))
            config, fold = flatten(frozen["config"]), frozen["config"]["data"].get("fold")
            run = (
                Path(frozen["directory"]).name,
                str(config["model.name"]),
                int(config["seed"]),
                int(-1 if fold is None else fold),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        yield run
