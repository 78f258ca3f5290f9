"""What a run is: the one place that decides which keys make two runs the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
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
)

# Keys that came after the first release, with the value at which they change nothing. A key at its neutral
# value is left out of the identity, so that runs made before the key existed keep their names.
NEUTRAL: dict[str, Any] = {
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
REPETITION = ("seed",)


@dataclass(frozen=True)
class Identity:
    """The name of a run's directory, and the two hashes (8 hexadecimal digits each) behind it.

    `run` follows from everything that makes the run what it is, `recipe` from the same without the seed.
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
    kept = {key: value for key, value in config.items() if is_identity(key, value)}
    kept["num_processes"] = num_processes
    run = _digest(kept)
    recipe = _digest({key: value for key, value in kept.items() if key not in REPETITION})
    directory = f"{config['data.name']}-{config['model.name']}-seed{config['seed']}-{run}"
    return Identity(directory, run, recipe)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def is_identity(key: str, value: Any) -> bool:
    """Whether a key of the flat configuration, at this value, is part of what a run is."""
    if any(key == left_out or key.startswith(f"{left_out}.") for left_out in NOT_IDENTITY):
        return False
    return not (key in NEUTRAL and NEUTRAL[key] == value)


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
