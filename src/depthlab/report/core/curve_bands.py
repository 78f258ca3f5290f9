"""Curves of many runs on one grid: every logged point is read and averaged into the bin it falls in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from depthlab.errors import InputError
from depthlab.records.curve_file import FILE_NAME, MOST_COLUMNS, curves_text, read_curves
from depthlab.records.record_checks import MOST_STEPS

Floats = NDArray[np.float64]
BINS = 400
MOST_VALUE = 1e30


@dataclass(frozen=True)
class Band:
    """A curve over runs: at each step the mean, the lowest and highest run, and every run (NaN where it has none)."""

    step: Floats
    mean: Floats
    low: Floats
    high: Floats
    num_points: int
    runs: Floats


def read_columns(directory: Path, columns: Sequence[str]) -> dict[str, tuple[Floats, Floats]]:
    """Steps and values of the `columns` that metrics.csv has, without NaN and what no run can have measured.

    Raises:
        InputError: the file is missing or not what a run writes.
    """
    if not (directory / FILE_NAME).is_file():  # one of many runs in a published folder, or no curves at all
        return _parsed(directory, columns)
    try:
        text = curves_text(directory)
    except InputError:
        raise InputError(f"{directory.name} holds no readable {FILE_NAME}.") from None
    header, _, body = text.partition("\n")
    names = header.strip().split(",")
    if len(names) > MOST_COLUMNS:
        raise InputError(f"{directory.name}/{FILE_NAME} has more than {MOST_COLUMNS:,} columns.")
    cells = body.replace("\r\n", "\n").removesuffix("\n").replace("\n", ",").split(",")
    lines = body.count("\n") + (not body.endswith("\n"))
    # Splitting a file of whole rows into one list of cells is ten times as fast as a parser; any other file (cut
    # short, quoted) is parsed.
    if body and "step" in names and len(cells) == lines * len(names) and '"' not in body:
        try:
            return _from_cells(names, cells, columns)
        except ValueError:
            pass
    return _parsed(directory, columns)


def average(curves: Sequence[tuple[Floats, Floats]], last_step: float) -> Band:
    """The mean over runs of curves that were binned over steps up to `last_step`; short curves are left as they are."""
    edges = np.linspace(0, last_step, BINS + 1)
    few = max(len(step) for step, _ in curves) <= BINS
    grid = np.unique(np.concatenate([step for step, _ in curves])) if few else edges[1:]
    binned = np.stack([_binned(step, value, grid) for step, value in curves])
    kept = ~np.isnan(binned).all(axis=0)
    binned = binned[:, kept]
    points = sum(len(step) for step, _ in curves)
    return Band(grid[kept], np.nanmean(binned, 0), np.nanmin(binned, 0), np.nanmax(binned, 0), points, binned)


def _parsed(directory: Path, columns: Sequence[str]) -> dict[str, tuple[Floats, Floats]]:
    try:
        curves = read_curves(directory)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{directory.name}/{FILE_NAME} is damaged ({error}).") from None
    return _finite({name: _arrays(*zip(*curves[name], strict=True)) for name in columns if curves.get(name)})


def _binned(step: Floats, value: Floats, grid: Floats) -> Floats:
    """The mean of the values in (grid[i-1], grid[i]] for each i; NaN where there are none."""
    index = np.minimum(np.searchsorted(grid, step), len(grid) - 1)
    counts = np.bincount(index, minlength=len(grid))
    sums = np.bincount(index, weights=value, minlength=len(grid))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _from_cells(names: list[str], cells: list[str], columns: Sequence[str]) -> dict[str, tuple[Floats, Floats]]:
    width = len(names)
    steps = cells[names.index("step") :: width]
    found = {}
    for column in columns:
        texts = cells[names.index(column) :: width] if column in names else []
        rows = [i for i, text in enumerate(texts) if text]
        if rows:
            found[column] = _arrays([int(steps[i]) for i in rows], [float(texts[i]) for i in rows])
    return _finite(found)


def _finite(curves: dict[str, tuple[Floats, Floats]]) -> dict[str, tuple[Floats, Floats]]:
    """The curves with at least one finite value."""
    return {name: (step, value) for name, (step, value) in curves.items() if len(step)}


def _arrays(steps: Sequence[int], values: Sequence[float]) -> tuple[Floats, Floats]:
    step, value = np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)
    fitting = (np.abs(value) <= MOST_VALUE) & (step >= 0) & (step <= MOST_STEPS)  # NaN fits nothing
    return step[fitting], value[fitting]
