"""How far a run is, progress.json: written about once a second for whoever watches from another process."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlab.errors import InputError
from depthlab.records.directory import still_ours
from depthlab.records.record_checks import MOST_SECONDS, MOST_STEPS, is_number
from depthlab.records.safe_files import read_inside

FILE_NAME = "progress.json"
MOST_BYTES = 2**16
TRAIN_ERROR = "train error"


@dataclass(frozen=True)
class Progress:
    """Where a run is. What it has not said yet is None.

    Args:
        step: optimiser updates taken.
        max_steps: those at the end of the run.
        value: the training metric that lists show, as last measured.
        title: what `value` is, such as "train error".
        unit: of `value`, such as "%".
        images_per_second: as measured lately.
        seconds_left: until `max_steps`.
    """

    step: int
    max_steps: int
    value: float | None = None
    title: str = TRAIN_ERROR
    unit: str = "%"
    images_per_second: float | None = None
    seconds_left: float | None = None

    def show(self) -> str:
        """The metric's value with its unit, "-" where there is none."""
        if self.value is None:
            return "-"
        return f"{self.value:.2f} %" if self.unit == "%" else f"{self.value:.4g} {self.unit}".rstrip()


def write_progress(directory: Path, progress: Progress) -> None:
    """Put progress.json in `directory`, in place of the one before, unless the run is another process's now.

    Raises:
        OSError: it cannot be written.
    """
    values = {
        "step": progress.step,
        "max_steps": progress.max_steps,
        "train_err": progress.value if progress.title == TRAIN_ERROR else None,
        "title": progress.title,
        "unit": progress.unit,
        "value": progress.value,
        "images_per_second": progress.images_per_second,
        "seconds_left": progress.seconds_left,
        "updated_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if not still_ours(directory):
        return
    temporary = directory / f".{FILE_NAME}.tmp"
    temporary.write_text(json.dumps(values), encoding="utf-8")
    temporary.replace(directory / FILE_NAME)  # whole, though not flushed to disk: it is worth a second


def read_progress(directory: Path, since: float = 0.0) -> Progress | None:
    """What the run in `directory` last said, None where that was before the time `since` or cannot be read."""
    try:
        if (directory / FILE_NAME).stat().st_mtime < since:
            return None
        said = json.loads(read_inside(directory, FILE_NAME, MOST_BYTES).decode("utf-8"))
        return _parse(said) if isinstance(said, dict) else None
    except (OSError, InputError, ValueError, RecursionError):
        return None


def _parse(said: dict[str, Any]) -> Progress | None:
    step, max_steps = said.get("step"), said.get("max_steps")
    if not all(type(count) is int and 0 <= count <= MOST_STEPS for count in (step, max_steps)):
        return None
    title, unit = said.get("title", TRAIN_ERROR), said.get("unit", "%")
    texts = isinstance(title, str) and isinstance(unit, str)
    return Progress(
        step=said["step"],
        max_steps=said["max_steps"],
        value=_finite(said.get("value", said.get("train_err"))),
        title=title[:40] if texts else TRAIN_ERROR,
        unit=unit[:10] if texts else "%",
        images_per_second=_positive(said.get("images_per_second")),
        seconds_left=_positive(said.get("seconds_left")),
    )


def _positive(value: Any) -> float | None:
    return float(value) if is_number(value, MOST_SECONDS) else None


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None  # NaN compares as false
    return float(value)
