"""What a run is: the one place that decides which keys make two runs the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

# Where a run happens, who watches it and how often it is saved do not change what it is. Device and thread
# count are left out too, and so is how a step is made fast: they are recorded for each stretch of a run, which may
# move to another machine.
NOT_IDENTITY = (
    "name",
    "rerun",
    "dry_run",
    "paths",
    "logger",
    "checkpoint",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.num_threads",
    "trainer.profiler",
    "model.activation_checkpointing",
    "trainer.compile",
    "trainer.steps_per_replay",
    # A folder's images are the same in memory and streamed.
    "data.memory_limit_gib",
    "data.num_workers",
)

# Keys that came after the first release, with the value at which they change nothing. A key at its neutral
# value is left out of the identity, so that runs made before the key existed keep their names.
IDENTITY_DEFAULTS: dict[str, Any] = {
    "data.fold": None,
    "data.num_folds": None,
    "data.classes": None,
    "data.images_per_class": None,
    "augment.mixup": 0,
    "augment.cutmix": 0,
    "augment.color_jitter": 0,
    "augment.random_erasing": 0,
    "augment.label_smoothing": 0,
    "model.weights": None,
    "model.drop_classifier": False,
    "model.freeze": "none",
    "model.dropout": 0.0,
    "model.two_stream": False,
    "model.block": "basic",
    "model.preactivation": False,
    "model.stochastic_depth": 0.0,
    "optimizer.backbone_lr_factor": 1.0,
}

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
    """What of a flat configuration says what a run is. A folder of images counts by its name, wherever it lies."""
    kept = {key: value for key, value in config.items() if is_identity(key, value)}
    if "data.folder" in kept:
        kept["data.folder"] = PurePath(kept["data.folder"]).name
    return kept


def is_identity(key: str, value: Any) -> bool:
    """Whether a key of the flat configuration, at this value, is part of what a run is."""
    if any(key == left_out or key.startswith(f"{left_out}.") for left_out in NOT_IDENTITY):
        return False
    return not (key in IDENTITY_DEFAULTS and IDENTITY_DEFAULTS[key] == value)


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
