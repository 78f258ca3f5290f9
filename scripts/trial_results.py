"""What a run of a trial has left on disk: how far it came, and in what it differs from an uninterrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from depthlab.records.arrays import array_names, load_arrays
from depthlab.records.checkpoints import checkpoint_path, list_checkpoints, load_checkpoint
from depthlab.records.record import find_records, read_record


def directory_of(logs: Path) -> Path | None:
    """The one run below `logs`, None where there is none yet."""
    found = list(find_records(logs)) if logs.exists() else []
    return found[0] if found else None


def progress(logs: Path) -> tuple[int, int, int]:
    """How far the run below `logs` is: the newest checkpoint's step, the record's step, the record's segments.

    Raises:
        InputError: the record cannot be read.
    """
    directory = directory_of(logs)
    if directory is None:
        return (0, 0, 0)
    record = read_record(directory)
    newest = max((int(path.stem.partition("-")[2]) for path in list_checkpoints(directory)), default=0)
    return (newest, record.steps, len(record.segments))


def differences(run: Path, whole: Path) -> tuple[str, ...]:
    """The parts in which a finished run differs from the uninterrupted one, and files that should not be there."""
    record, expected = read_record(run), read_record(whole)
    keys = ("status", "steps", "metrics", "metrics_ema", "stopped_early", "weights_sha256")
    found = [key for key in keys if record.get(key) != expected.get(key)]
    if (run / "metrics.csv").read_bytes() != (whole / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    if not is_equal(_arrays(run), _arrays(whole)):
        found.append("diagnostics")
    found += [f"left {path.name}" for path in sorted(run.parent.rglob("*.tmp"))]
    if not checkpoint_path(run, expected.steps).exists():
        return (*found, "no last checkpoint")
    state, wanted = (load_checkpoint(checkpoint_path(path, expected.steps)) for path in (run, whole))
    parts = [key for key in wanted if key != "record"]  # which says when, and was compared above
    return (*found, *(key for key in parts if not is_equal(state.get(key), wanted[key])))


def _arrays(directory: Path) -> dict[str, dict[str, bytes]]:
    arrays = {name: load_arrays(directory, name) for name in array_names(directory)}
    return {name: {key: array.tobytes() for key, array in each.items()} for name, each in arrays.items()}


def is_equal(a: Any, b: Any) -> bool:
    """Whether two checkpoints, or parts of them, are equal bit for bit; a NaN equals itself."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same_kind = a.dtype == b.dtype and a.shape == b.shape
        return same_kind and a.contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(is_equal, a, b))
    return bool(a == b) or repr(a) == repr(b)
