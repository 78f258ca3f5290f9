"""The optional arrays beside a record (diagnostics/*.npz), read run by run and put together over seeds."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlab.errors import InputError
from depthlab.records.arrays import load_arrays
from depthlab.report.core.groups import Group, Setting
from depthlab.report.core.runs import Run

Array = NDArray[Any]
Arrays = dict[str, Array]
KEYS = {
    "responses": ("layer", "std"),
    "gradients": ("layer", "step", "norm"),
    "predictions": ("label", "predicted"),
    "mistakes": ("image", "label", "predicted", "confidence"),
}

MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Members:
    """The arrays of the finished runs of a group that have them."""

    group: Group
    arrays: tuple[Arrays, ...]


def read_arrays(run: Run, name: str) -> Arrays:
    """The arrays of diagnostics/`name`.npz.

    Raises:
        InputError: the file is missing, damaged, or lacks an array.
    """
    try:
        found = load_arrays(run.directory, name)
        arrays = {key: found[key] for key in KEYS[name]}
        _check_shapes(name, arrays)
        return arrays
    except FileNotFoundError:
        raise InputError(f"{run.name} holds no diagnostics/{name}.npz") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{run.name}: diagnostics/{name}.npz is damaged ({type(error).__name__})") from None


def _check_shapes(name: str, arrays: Arrays) -> None:
    expected = {
        "responses": lambda: arrays["std"].shape == arrays["layer"].shape,
        "gradients": lambda: arrays["norm"].shape == (len(arrays["step"]), len(arrays["layer"])),
        "predictions": lambda: arrays["label"].shape == arrays["predicted"].shape,
        "mistakes": lambda: arrays["image"].ndim == 4 and len({len(array) for array in arrays.values()}) == 1,
    }
    indices = [arrays[key] for key in ("label", "predicted") if key in arrays]
    if not expected[name]() or any((array < 0).any() or (array > MOST_CLASSES).any() for array in indices):
        raise ValueError("shapes or classes that do not fit together")


def read_members(groups: Sequence[Group], name: str, problems: list[str]) -> list[Members]:
    """For each group the arrays of its finished runs; what cannot be read goes to `problems`, by name."""
    found = []
    for group in groups:
        arrays: list[Arrays] = []
        for run in group.finished:
            try:
                arrays.append(read_arrays(run, name))
            except InputError as error:
                problems.append(str(error))
        if arrays:
            found.append(Members(group, tuple(arrays)))
    return found


def read_twins(setting: Setting, name: str, problems: list[str]) -> tuple[Members, Members] | None:
    """A plain network and its residual twin at the greatest depth where both have the arrays."""
    kinds = setting.kinds()
    residual = next((groups for kind, groups in kinds.items() if kind.startswith("residual")), [])
    plain = {group.depth: group for group in kinds.get("plain", [])}
    for group in reversed(residual):
        if group.depth in plain:
            members = read_members([plain[group.depth], group], name, problems)
            if len(members) == 2:
                return members[0], members[1]
    return None


def mean_over_runs(members: Members, key: str) -> Array:
    """The mean of one array over a group's runs; runs whose shape is not the first one's are left out."""
    arrays = [arrays[key] for arrays in members.arrays]
    mean: Array = np.mean([array for array in arrays if array.shape == arrays[0].shape], axis=0)
    return mean


def confusion(members: Members, num_classes: int) -> Array:
    """Counts over all runs: rows are labels, columns predictions."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for arrays in members.arrays:
        np.add.at(counts, (arrays["label"], arrays["predicted"]), 1)
    return counts


def class_errors(counts: Array) -> Array:
    """The error in percent of each label; NaN for a label without images."""
    totals = counts.sum(axis=1)
    errors: Array = np.where(totals > 0, 100 * (1 - np.diag(counts) / np.maximum(totals, 1)), np.nan)
    return errors
