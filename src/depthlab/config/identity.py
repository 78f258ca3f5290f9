"""What a run is: the one place that decides which keys make two runs the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from depthlab.config.registry import Group, groups
from depthlab.config.schema import SECTIONS, RunKeys
from depthlab.config.spec import Key, keys_of

# What `recipe` leaves out besides: runs that differ in these alone are repetitions of one recipe.
REPETITION = ("seed", "data.fold")


@dataclass(frozen=True)
class Identity:
    """The name of a run's directory, and the two hashes (8 hexadecimal digits each) behind it.

    `run` follows from everything that makes the run what it is, `recipe` from the same without seed and fold.
    """

    directory: str
    run: str
    recipe: str


def identify(config: Mapping[str, Any], num_processes: int) -> Identity:
    """The identity of a run.

    Args:
        config: the flat resolved configuration (dotted keys); the precision is resolved, never "auto".
        num_processes: how many processes share each batch.
    """
    if config["trainer.precision"] == "auto":
        raise ValueError("trainer.precision=auto: resolve the precision before the run is identified")
    kept = identity_values(config)
    kept["num_processes"] = num_processes
    run = _digest(kept)
    recipe = _digest({key: value for key, value in kept.items() if key not in REPETITION})
    repetition = name_repetition(config["seed"], config.get("data.fold")).replace(" ", "")
    directory = f"{config['data.name']}-{config['model.name']}-{repetition}-{run}"
    return Identity(directory, run, recipe)


def name_repetition(seed: int, fold: int | None = None) -> str:
    """What tells a run from others of its recipe: `seed 1`, or `seed 1 fold 0`."""
    return f"seed {seed}" if fold is None else f"seed {seed} fold {fold}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def identity_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a flat configuration says what a run is; a file or folder counts by its name, wherever it lies."""
    kept = {key: value for key, value in config.items() if is_identity(key, value, config)}
    for key in kept:
        info = find_key(key, config)
        if info is not None and info.is_path and isinstance(kept[key], str):
            kept[key] = PurePath(kept[key]).name
    return kept


def is_identity(key: str, value: Any, config: Mapping[str, Any]) -> bool:
    """Whether a key of the flat configuration, at this value, is part of what a run is.

    A key that nothing declares, of a component that is not installed here, is.
    """
    section, _, rest = key.partition(".")
    group = groups().get(section)
    if group is not None and rest in (group.selector, ""):  # the choice itself, or null where nothing is chosen
        return (value or "") != group.identity_default
    if group is not None and group.selector is None and rest.partition(".")[0] in group.components:
        component = group.components[rest.partition(".")[0]].spec
        if not getattr(component, "identity", True) or section == "logger":
            return False
        if rest in group.components and rest not in _main_keys(group):
            return bool(value)  # true: on, with nothing to be set
    info = find_key(key, config)
    return info is None or info.identifies(value)


def find_key(key: str, config: Mapping[str, Any]) -> Key | None:
    """What declares a dotted key of the flat configuration; None where nothing installed does."""
    section, _, rest = key.partition(".")
    if not rest:
        return keys_of(RunKeys).get(key)
    if section in SECTIONS and rest in keys_of(SECTIONS[section]):
        return keys_of(SECTIONS[section])[rest]
    group = groups().get(section)
    if group is None:
        return None
    if group.selector is not None:
        chosen = group.components.get(str(config.get(f"{section}.{group.selector}")))
        return keys_of(chosen.spec).get(rest) if chosen else None
    name, _, own = rest.partition(".")
    if name not in group.components:
        return None
    spec = group.components[name].spec
    return keys_of(spec).get(own or str(getattr(spec, "main", "")))


def _main_keys(group: Group) -> set[str]:
    """The components of a group for which a plain value stands."""
    return {name for name, each in group.components.items() if getattr(each.spec, "main", None)}


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
