"""The curves of a run, metrics.csv: one row a measurement, columns that are the same in every run."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from depthlab.errors import InputError
from depthlab.records.atomic_files import replacing

FILE_NAME = "metrics.csv"
COLUMNS = (
    "step",
    "epoch",
    "lr",
    "train/loss",
    "train/err",
    "val/loss",
    "val/err",
    "test/loss",
    "test/err",
)

Curves = dict[str, list[tuple[int, float]]]


class CurveFile:
    """Appends measurements to metrics.csv, each written through at once.

    On a continuation everything after the step it continues from is dropped first: those steps are made again.
    """

    def __init__(self, directory: Path, continue_from: int) -> None:
        """Open the file in `directory`; rows after step `continue_from` are dropped."""
        path = directory / FILE_NAME
        rows = [row for row in _rows(path) if int(row["step"]) <= continue_from] if path.exists() else []
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS)

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row; names that are no column are refused."""
        # repr gives the shortest text that reads back as the same number.
        self._writer.writerow({"step": step, **{name: repr(float(value)) for name, value in values.items()}})
        self._file.flush()

    def flush(self) -> None:
        """Have every row on disk, also if the power fails."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


def read_curves(directory: Path) -> Curves:
    """Every curve of a run: for each column the (step, value) pairs that were measured, in order.

    Raises:
        InputError: the file is missing or not what a run writes.
    """
    curves: Curves = {}
    path = directory / FILE_NAME
    if not path.exists():
        raise InputError(f"{directory} holds no {FILE_NAME}.")
    for row in _rows(path):
        for name, text in row.items():
            if name != "step" and text:
                curves.setdefault(name, []).append((int(row["step"]), _number(text, path)))
    return curves


def _number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}: {text!r} is not a number.") from None


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        # A row without its line's end was cut by a kill; it may end in half a number.
        whole, newline, _ = path.read_bytes().decode("utf-8").rpartition("\n")
        reader = csv.DictReader(f"{whole}{newline}".splitlines())
        if reader.fieldnames is None or "step" not in reader.fieldnames:
            raise InputError(f"{path} is not a curve file: it has no column 'step'.")
        rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}).") from None
    for number, row in enumerate(rows, start=2):
        step = row["step"]
        if None in row or None in row.values() or not (step.isascii() and step.isdigit()):
            raise InputError(f"{path} is damaged: line {number} is not a row of this file.")
    return rows
