"""Which weights a run starts from: found on disk, and named by their content. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from depthlab.config.identity import Identity, flatten, identify
from depthlab.config.schema import TrainConfig, as_dict
from depthlab.errors import InputError
from depthlab.records.record import find_records, read_record

CHECKPOINTS = "checkpoints"


def find_weights(source: str) -> Path | None:
    """The file that `model.weights` stands for; None where it is the name of published weights.

    A file is itself. A run's directory, or a folder with one finished run below it, is that run's last checkpoint.

    Raises:
        InputError: a folder holds no finished run or several, or a path leads nowhere.
    """
    path = Path(source)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            return _last_checkpoint(path)
    except OSError as error:  # of a name that is too long, say
        raise InputError(f"model.weights={source[:100]}: cannot be read ({error.strerror}).") from None
    if not source.isidentifier():
        raise InputError(
            f"model.weights={source}: there is no such file or directory, and it is no name of torchvision's weights."
        )
    return None


def weights_hash(source: str) -> str:
    """What tells weights apart in a run's identity: the SHA-256 of their file, or the published name."""
    path = find_weights(source)
    if path is None:
        return source
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_weights(config: dict[str, Any]) -> dict[str, Any]:
    """The flat configuration with the weights' content for their place: what counts is what is in a file."""
    source = config.get("model.weights")
    return config if source is None else {**config, "model.weights": weights_hash(source)}


def _last_checkpoint(folder: Path) -> Path:
    finished = [
        (directory, record)
        for directory in find_records(folder)
        if (record := read_record(directory)).status == "finished"
    ]
    if len(finished) != 1:
        names = ", ".join(directory.name for directory, _ in finished) or "none"
        raise InputError(f"model.weights={folder}: one finished run is expected below it; there is: {names}.")
    directory, record = finished[0]
    path = directory / CHECKPOINTS / f"step-{record.steps:08d}.ckpt"
    if not path.exists():
        raise InputError(f"model.weights={folder}: {directory.name} has no checkpoint of its last step ({path.name}).")
    return path


def identity_of(config: TrainConfig) -> Identity:
    """What names a run of this configuration, its hardware resolved.

    Raises:
        InputError: as `find_weights`.
    """
    return identify(hash_weights(flatten(as_dict(config))), config.trainer.devices)
