"""The curves of a group's runs, read once: averaged for the figure, and the steps at which an error was reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from depthlab.errors import InputError
from depthlab.report.core.collection import Run
from depthlab.report.core.curve_bands import Band, Floats, average, read_columns
from depthlab.report.core.groups import Group
from depthlab.report.core.table import Table
from depthlab.report.core.task_description import Task

LEVELS = (50, 20, 10)  # percent


@dataclass(frozen=True)
class GroupCurves:
    """A group's curves by key, for each level of the running training error the steps of the runs, and problems."""

    group: Group
    bands: dict[str, Band]
    reached: dict[int, tuple[float | None, ...]]
    problems: tuple[str, ...]

    @property
    def is_thinned(self) -> bool:
        """Whether a record says that its curves were published with fewer points than were logged."""
        copies = [run.record.get("published") for run in self.group.finished]
        return any(n > copy["max_points"] for copy in copies if copy for n in copy.get("points_before", {}).values())


def read_group_curves(group: Group) -> GroupCurves:
    """The curves of a group's finished runs; what cannot be read is named in `problems`."""
    curves: dict[str, list[tuple[Floats, Floats]]] = {}
    reached: dict[int, list[float | None]] = {level: [] for level in LEVELS}
    problems = []
    training = f"train/{group.task.primary}"
    for run in group.finished:
        try:
            columns = read_columns(run.directory, _keys(run))
        except InputError as error:
            problems.append(str(error).replace(str(run.directory), run.directory.name).rstrip("."))
            continue
        for name, curve in columns.items():
            curves.setdefault(name, []).append(curve)
        for level in LEVELS if group.metric(training).counts_images else ():
            reached[level].append(_first_below(columns.get(training), level))
    last = max((run.record["steps"] for run in group.finished), default=1)
    bands = {name: average(members, last) for name, members in curves.items()}
    return GroupCurves(group, bands, {level: tuple(steps) for level, steps in reached.items()}, tuple(problems))


def steps_table(curves: Sequence[GroupCurves]) -> Table:
    """One row a network: the median step at which the running training error reached a level."""
    rows = tuple(
        (c.group.label, len(c.reached[LEVELS[0]]), *(_reached(c.reached[level]) for level in LEVELS))
        for c in curves
        if c.reached[LEVELS[0]]
    )
    caption = (
        "First logged step at which the running training error was at or below a level; median over runs, with the "
        "number of runs that reached it where not all did."
    )
    return Table("steps_to_reach", caption, ("network", "n", *(f"steps to {level} %" for level in LEVELS)), rows)


def curve_keys(task: Task) -> tuple[str, str, str]:
    """The columns of metrics.csv that a figure shows."""
    return f"train/{task.primary}", f"val/{task.primary}", f"test/{task.primary}"


def _keys(run: Run) -> tuple[str, str]:
    """The training curve and the held-out one: the test curve where the run logged one, else validation."""
    train, val, test = curve_keys(run.task)
    return train, test if run.record["data"].get("test_curve") else val


def _first_below(curve: tuple[Floats, Floats] | None, level: float) -> float | None:
    if curve is None:
        return None
    below = np.flatnonzero(curve[1] <= level)
    return float(curve[0][below[0]]) if below.size else None


def _reached(steps: Sequence[float | None]) -> str | int | None:
    there = [step for step in steps if step is not None]
    if not there:
        return None
    middle = round(median(there))
    return middle if len(there) == len(steps) else f"{middle:,} ({len(there)} of {len(steps)} runs)"
