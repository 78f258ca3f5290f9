"""Runs that a sweep was launched for and that have left nothing yet, from the configurations it froze."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from depthlab.records.frozen import FOLDER
from depthlab.records.identity import flatten, identify
from depthlab.records.record import FILE_NAME


def planned_runs(folders: Sequence[Path]) -> list[str]:
    """The names, such as `plain20 seed 3`, of the runs that were frozen below `folders` and have no record."""
    found: dict[Path, str] = {}
    for folder in folders:
        for config in _frozen(folder):
            directory = folder / identify(config, config["trainer.devices"]).directory
            if not (directory / FILE_NAME).exists():
                found[directory] = f"{config['model.name']} seed {config['seed']}"
    return sorted(found.values(), key=lambda name: (name.rsplit(" ", 1)[0], int(name.rsplit(" ", 1)[1])))


def _frozen(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Flat configurations; a file that is none, or one of another version, says nothing about what was planned."""
    for path in sorted(folder.glob(f"{FOLDER}/*/configs/*.json")):
        try:
            config = flatten(json.loads(path.read_text(encoding="utf-8"))["config"])
            identify(config, config["trainer.devices"])
            int(config["seed"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        yield config
