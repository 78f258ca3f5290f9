"""The curves of a run, metrics.csv: one row for each time something was logged."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from depthlab.errors import InputError
from depthlab.records.atomic_files import replacing
from depthlab.records.directory import check_still_ours
from depthlab.records.published_files import is_published, published_curves
from depthlab.records.safe_files import read_inside

FILE_NAME = "metrics.csv"
# The first columns of every file, in this order. What a callback logs besides gets a column after them.
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
MOST_COLUMNS = 1000

Curves = dict[str, list[tuple[int, float]]]


class CurveFile:
    """Appends measurements to metrics.csv, each written through at once.

    On a continuation everything after the step it continues from is dropped first: those steps are made again.
    """

    def __init__(self, directory: Path, continue_from: int) -> None:
        """Open the file in `directory`; rows after step `continue_from` are dropped."""
        self._directory = directory
        self._path = directory / FILE_NAME
        rows = _rows(directory) if self._path.exists() else []
        self._columns = list(dict.fromkeys([*COLUMNS, *(rows[0] if rows else ())]))
        self._rewrite([row for row in rows if int(row["step"]) <= continue_from])

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Write one row. A name that is no column yet becomes one; it is empty in the rows before.

        Raises:
            InputError: there are more than 1,000 columns, a name has a line break, or the run is another process's now.
        """
        new = [name for name in values if name not in self._columns]
        if new:
            self._add_columns(new)
        # repr gives the shortest text that reads back as the same number.
        self._writer.writerow({"step": step, **{name: repr(float(value)) for name, value in values.items()}})
        self._file.flush()

    def flush(self) -> None:
        """Have every row on disk, also if the power fails."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def _add_columns(self, names: list[str]) -> None:
        if len(self._columns) + len(names) > MOST_COLUMNS:
            raise InputError(f"More than {MOST_COLUMNS:,} names were logged, {names[0]} for one. Log fewer.")
        if broken := [name for name in names if name.splitlines() != [name]]:
            raise InputError(f"{broken[0]!r} was logged: a name is one line of text.")
        check_still_ours(self._directory)
        self._file.close()
        self._columns += names
        self._rewrite(_rows(self._directory))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        """Replace the file by these rows at once, and go on from there."""
        with replacing(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns, restval="")


def curves_text(directory: Path) -> str:
    """metrics.csv of the run in `directory`, which may be one that was published, without a row that a kill cut.

    Raises:
        InputError: the file is missing, cannot be read, or is not text.
    """
    if is_published(directory):
        return published_curves(directory)
    path = directory / FILE_NAME
    try:
        text = read_inside(directory, FILE_NAME).decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{directory} holds no {FILE_NAME}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged ({error}).") from None
    # A row without its line's end may end in half a number.
    whole, newline, _ = text.rpartition("\n")
    return f"{whole}{newline}"


def read_curves(directory: Path) -> Curves:
    """Every curve of a run: for each column the (step, value) pairs that were logged, in order.

    Raises:
        InputError: the file is missing or not what a run writes.
    """
    curves: Curves = {}
    path = directory / FILE_NAME
    for row in _rows(directory):
        for name, text in row.items():
            if name != "step" and text:
                curves.setdefault(name, []).append((int(row["step"]), _number(text, path)))
    return curves


def _number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}: {text!r} is not a number.") from None


def _rows(directory: Path) -> list[dict[str, str]]:
    path = directory / FILE_NAME
    try:
        reader = csv.DictReader(io.StringIO(curves_text(directory)))
        if reader.fieldnames is None or "step" not in reader.fieldnames:
            raise InputError(f"{path} is not a curve file: it has no column 'step'.")
        if len(reader.fieldnames) > MOST_COLUMNS:
            raise InputError(f"{path} is not a curve file: it has more than {MOST_COLUMNS:,} columns.")
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"{path} is damaged ({error}).") from None
    for number, row in enumerate(rows, start=2):
        step = row["step"]
        if None in row or None in row.values() or not (step.isascii() and step.isdigit() and len(step) < 16):
            raise InputError(f"{path} is damaged: line {number} is not a row of this file.")
    return rows
