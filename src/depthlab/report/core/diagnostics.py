"""The arrays beside a record (responses, gradients, predictions, mistakes), read run by run."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlab.errors import InputError
from depthlab.records.arrays import load_arrays
from depthlab.report.core.collection import Run
from depthlab.report.core.groups import Group, Setting
from depthlab.shown_text import one_line

Array = NDArray[Any]
Arrays = dict[str, Array]
MOST_CLASSES = 1000  # of a confusion matrix: ten times as many would take gigabytes
LONGEST_NAME = 60  # characters of a class's name in a figure
COLLAPSED = 0.5  # share of the images that one class is predicted for


KEYS = {
    "responses": ("layer", "std"),
    "gradients": ("layer", "step", "norm"),
    "predictions": ("label", "predicted"),
    "mistakes": ("image", "label", "predicted", "confidence"),
}


@dataclass(frozen=True)
class Members:
    """The arrays of the finished runs of a group that have them."""

    group: Group
    arrays: tuple[Arrays, ...]
    runs: tuple[Run, ...]


def read_arrays(run: Run, name: str) -> Arrays:
    """The arrays called `name` that figures need.

    Raises:
        InputError: the file is missing, damaged, or lacks an array.
    """
    try:
        found = load_arrays(run.directory, name)
        arrays = {key: found[key] for key in KEYS[name]}
    except FileNotFoundError:
        raise InputError(f"{run.name} holds no diagnostics/{name}.npz") from None
    except (OSError, InputError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error) if isinstance(error, InputError) else type(error).__name__
        raise InputError(f"{run.name}: diagnostics/{name}.npz is damaged ({reason.rstrip('.')})") from None
    if any((arrays[key] >= MOST_CLASSES).any() for key in ("label", "predicted") if key in arrays):
        raise InputError(f"{run.name}: diagnostics/{name}.npz has more than {MOST_CLASSES:,} classes")
    if name == "responses" and not np.isfinite(arrays["std"]).all():
        raise InputError(f"{run.name}: diagnostics/{name}.npz holds NaN or infinity")
    if name == "gradients":  # zero is drawn as a gap, as a norm that underflowed is
        arrays["norm"] = np.where(np.isfinite(arrays["norm"]), arrays["norm"], 0)
    return arrays


def read_members(groups: Sequence[Group], name: str, problems: list[str]) -> list[Members]:
    """For each group the arrays of its finished runs; what cannot be read is named in `problems`."""
    found = []
    for group in groups:
        arrays: list[Arrays] = []
        runs: list[Run] = []
        for run in group.finished:
            try:
                arrays.append(read_arrays(run, name))
                runs.append(run)
            except InputError as error:
                problems.append(str(error))
        if arrays:
            found.append(Members(group, tuple(arrays), tuple(runs)))
    return found


def read_shown(setting: Setting, name: str, problems: list[str]) -> list[Members]:
    """The one or two groups that a figure of single networks shows.

    A plain network and its residual twin at the greatest depth where both have the arrays; without such twins the
    first and the last group that has them.
    """
    kinds = setting.kinds()
    residual = next((groups for kind, groups in kinds.items() if kind.startswith("residual")), [])
    plain = {group.depth: group for group in kinds.get("plain", [])}
    for group in reversed(residual):
        if group.depth in plain:
            members = read_members([plain[group.depth], group], name, problems)
            if len(members) == 2:
                return members
    every = read_members([group for groups in kinds.values() for group in groups], name, problems)
    problems[:] = dict.fromkeys(problems)
    return every if len(every) < 2 else [every[0], every[-1]]


def mean_over_runs(members: Members, key: str) -> Array:
    """The mean of one array over a group's runs; runs whose shape is not the first one's are left out."""
    arrays = [arrays[key] for arrays in members.arrays]
    mean: Array = np.mean([array for array in arrays if array.shape == arrays[0].shape], axis=0)
    return mean


def confusion(arrays: Sequence[Arrays], num_classes: int) -> Array:
    """Counts over the given runs: rows are labels, columns predictions."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for run in arrays:
        np.add.at(counts, (run["label"], run["predicted"]), 1)
    return counts


def collapsed_apart(members: Members) -> bool:
    """Whether runs predict one class for most images, and not all of them the same class: a mean would hide it."""
    favourites = set()
    for arrays in members.arrays:
        counts = np.bincount(arrays["predicted"])
        if counts.size and counts.max() > COLLAPSED * counts.sum():
            favourites.add(int(counts.argmax()))
    return len(favourites) > 1


def class_errors(counts: Array) -> Array:
    """The error in percent of each label; NaN for a label without images."""
    totals = counts.sum(axis=1)
    errors: Array = np.where(totals > 0, 100 * (1 - np.diag(counts) / np.maximum(totals, 1)), np.nan)
    return errors


def class_names(groups: Sequence[Group], members: Sequence[Members]) -> list[str]:
    """The names of the classes; numbers for classes that occur in the arrays and have no name in the record."""
    names = groups[0].runs[0].record["data"].get("classes")
    known = [one_line(str(name), LONGEST_NAME) for name in names[:MOST_CLASSES]] if isinstance(names, list) else []
    indices = [arrays[key] for member in members for arrays in member.arrays for key in ("label", "predicted")]
    highest = max((int(array.max()) for array in indices if array.size), default=0)
    return known + [str(number) for number in range(len(known), highest + 1)]
