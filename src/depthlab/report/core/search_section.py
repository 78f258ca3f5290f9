"""The section of a search: its best trials, the command to type, and what each key did to the objective."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlab.config.metric_info import MetricInfo
from depthlab.errors import InputError
from depthlab.records.safe_files import read_inside
from depthlab.report.core import style
from depthlab.report.core.document import Section
from depthlab.report.core.figures import Figure
from depthlab.report.core.table import Table
from depthlab.runs.frozen import FOLDER, SEARCH, SUMMARY

BEST = 10  # trials in the table
COLUMNS = 3  # panels beside each other
TEN = 10.0  # ratio of the values from which their axis is logarithmic


@dataclass(frozen=True)
class Trial:
    """A trial that ended: its values as typed, the mean over its seeds and their values; None where it was pruned."""

    number: int
    params: dict[str, str]
    value: float | None
    values: tuple[float, ...]
    num_diverged: int
    state: str

    @property
    def sd(self) -> float | None:
        """The sample's standard deviation over the seeds; None for one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class SearchResult:
    """What search.json says."""

    objective: str
    metric: MetricInfo
    space: dict[str, dict[str, Any]]
    trials: tuple[Trial, ...]
    importance: dict[str, float]
    asked: int
    command: str

    @property
    def complete(self) -> list[Trial]:
        """The trials with a value, the best one first."""
        found = [trial for trial in self.trials if trial.value is not None]
        return sorted(found, key=lambda trial: trial.value or 0.0, reverse=self.metric.better == "higher")


def search_sections(folders: Sequence[Path]) -> list[Section]:
    """A section for each search whose results lie below the folders of sweeps."""
    paths = [path for folder in folders for path in sorted((folder / FOLDER).glob(f"{SEARCH}*/{SUMMARY}"))]
    sections = []
    for number, path in enumerate(paths, start=1):
        suffix = f" {path.parent.name.removeprefix(SEARCH)}" if len(paths) > 1 else ""
        try:
            sections.append(_section(read_search(path), f"Search{suffix}", number))
        except InputError as error:
            sections.append(Section(f"Search{suffix}", lines=(str(error),), in_terminal=True))
    return sections


def read_search(path: Path) -> SearchResult:
    """The results of a search.

    Raises:
        InputError: the file is not what a search writes.
    """
    try:
        found = json.loads(read_inside(path.parent, path.name).decode("utf-8"))
        trials = tuple(_trial(trial) for trial in found["trials"])
        name, title, unit, better = (str(found["metric"][key]) for key in ("name", "title", "unit", "better"))
        metric = MetricInfo(title, unit, better, name=name)
        space = {str(key): dict(each) for key, each in found["space"].items()}
        importance = {str(key): float(part) for key, part in (found["importance"] or {}).items()}
        asked, command = int(found["search"]["trials"]), str(found["command"] or "")
        result = SearchResult(str(found["objective"]), metric, space, trials, importance, asked, command)
        for trial in (each for each in trials if each.value is not None or each.state == "pruned"):
            for key in space:
                _position(result, key, trial)  # fails here, where the file is named
        return result
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path.parent.name}/{path.name} is damaged ({type(error).__name__}: {error}).") from None


def _trial(found: dict[str, Any]) -> Trial:
    value = None if found["value"] is None else float(found["value"])
    values = tuple(float(each) for each in found.get("values", ()))
    if not all(math.isfinite(each) for each in (*values, value or 0.0)):
        raise ValueError(f"trial {found['number']} has no finite value")
    params = {str(key): str(text) for key, text in found["params"].items()}
    state, diverged = str(found["state"]), int(found.get("num_diverged", 0))
    return Trial(int(found["number"]), params, value, values, diverged, state)


def _section(search: SearchResult, heading: str, number: int) -> Section:
    complete = search.complete
    states = [trial.state for trial in search.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    lines = [f"{len(search.trials)} of {search.asked} trials ({counts}); objective: {search.objective}."]
    if not complete:
        return Section(heading, lines=tuple(lines), in_terminal=True)
    best, metric = complete[0], search.metric
    spread = "" if best.sd is None else f" ± {metric.number(best.sd)}"
    params = ", ".join(f"{key}={text}" for key, text in best.params.items())
    value = f"{metric.number(best.value or 0.0)}{spread} {metric.unit}".rstrip()
    lines.append(
        f"Best: {params} with {value}, n = {len(best.values)}. As the best of {len(complete)} it is better than it "
        "would be with other seeds."
    )
    if search.importance:
        shares = ", ".join(f"{key} {100 * part:.0f} %" for key, part in search.importance.items())
        lines.append(f"Part of each key in the variance of the objective (fANOVA): {shares}.")
    suffix = f"_{number}" if number > 1 else ""
    with style.look():
        figures = [_slices(search, suffix), _history(search, suffix)]
        figures += [_parallel(search, suffix)] if len(search.space) > 1 else []
    return Section(
        heading, (), tuple(lines), "", (_table(search, suffix),), tuple(figures), search.command, in_terminal=True
    )


def _table(search: SearchResult, suffix: str) -> Table:
    heading = f"{search.objective} ({search.metric.unit})" if search.metric.unit else search.objective
    header = ("trial", *search.space, heading, "sd", "n", "diverged")
    rows = tuple(
        (
            str(trial.number),
            *(trial.params.get(key, "-") for key in search.space),
            trial.value,
            trial.sd,
            len(trial.values),
            trial.num_diverged,
        )
        for trial in search.complete[:BEST]
    )
    caption = f"The best {len(rows)} trials; mean and sample standard deviation over n seeds."
    return Table(f"search{suffix}", caption, header, rows)


def _slices(search: SearchResult, suffix: str) -> Figure:
    """The objective against each key."""
    keys = list(search.space)
    columns = min(COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)
    drawing, axes = style.new_figure(rows, columns, 1.2 + 3.2 * columns, 0.4 + 2.8 * rows, sharey=True)
    for axis, key in zip(axes.flat, keys, strict=False):
        place = _places(search, key)
        complete = search.complete
        x = [place(trial) for trial in complete]
        y = [trial.value or 0.0 for trial in complete]
        axis.errorbar(x, y, [trial.sd or 0.0 for trial in complete], fmt="o", ms=4, color=style.COLOURS[0], lw=0.8)
        axis.plot(x[:1], y[:1], "D", ms=8, mfc="none", mec=style.COLOURS[1], mew=1.6)
        pruned = [place(trial) for trial in search.trials if trial.state == "pruned" and key in trial.params]
        axis.plot(pruned, [0.02] * len(pruned), "|", color="grey", ms=9, transform=axis.get_xaxis_transform())
        _label(axis, search, key)
        _scale_values(axis, y)
    for axis in axes.flat[len(keys) :]:
        axis.set_axis_off()
    for row in axes:
        row[0].set_ylabel(_value_label(search))
    caption = (
        "Each trial's mean over its seeds with their standard deviation; the diamond is the best one. Grey marks at "
        "the bottom are trials that were pruned."
    )
    return Figure(f"search_slices{suffix}", "Objective against each key", caption, drawing)


def _history(search: SearchResult, suffix: str) -> Figure:
    """The objective of each trial in the order in which they were asked for, and the best so far."""
    drawing, axes = style.new_figure(1, 1, 6.5, 3)
    axis = axes[0][0]
    done = sorted(search.complete, key=lambda trial: trial.number)
    numbers, values = [trial.number for trial in done], [trial.value or 0.0 for trial in done]
    better = min if search.metric.better == "lower" else max
    best = [better(values[: idx + 1]) for idx in range(len(values))]
    axis.plot(numbers, values, "o", ms=4, color=style.COLOURS[0], label="trial")
    axis.step(numbers, best, where="post", color=style.COLOURS[1], label="best so far")
    axis.set_xlabel("trial")
    axis.set_ylabel(_value_label(search))
    _scale_values(axis, values)
    axis.legend()
    return Figure(f"search_history{suffix}", "Progress of the search", "Trials that were pruned are left out.", drawing)


def _parallel(search: SearchResult, suffix: str) -> Figure:
    """A line for each complete trial through its values of all keys to the objective."""
    from matplotlib import colormaps

    keys, complete = list(search.space), search.complete
    drawing, axes = style.new_figure(1, 1, 2 + 1.8 * len(keys), 3.6)
    axis, values = axes[0][0], [trial.value or 0.0 for trial in complete]
    spans = [_span([_position(search, key, trial) for trial in complete]) for key in keys]
    low, high = _span(values)
    for rank, trial in reversed(list(enumerate(complete))):
        points = [(_position(search, key, trial) - a) / (b - a) for key, (a, b) in zip(keys, spans, strict=True)]
        height = ((trial.value or 0.0) - low) / (high - low)
        colour = style.COLOURS[1] if rank == 0 else colormaps["viridis"](height)
        axis.plot(range(len(keys) + 1), [*points, height], color=colour, lw=2.5 if rank == 0 else 0.9)
    axis.set_xticks(range(len(keys) + 1), [*keys, search.objective], rotation=15)
    axis.set_yticks([])
    for idx, (key, span) in enumerate(zip([*keys, ""], [*spans, (low, high)], strict=True)):
        for end, alignment in zip((0, 1), ("top", "bottom"), strict=True):
            axis.text(idx, end + (0.03 if end else -0.03), _end_text(search, key, span[end]), ha="center", va=alignment)
    axis.set_ylim(-0.15, 1.15)
    caption = "Each complete trial as a line, coloured by its objective; the best one is orange."
    return Figure(f"search_parallel{suffix}", "Parallel coordinates", caption, drawing)


def _places(search: SearchResult, key: str) -> Any:
    choices = search.space[key].get("choices")
    return lambda trial: choices.index(trial.params[key]) if choices else float(trial.params[key])


def _position(search: SearchResult, key: str, trial: Trial) -> float:
    """The place of a trial on a linear axis: a rank for choices, a logarithm where the key has a logarithmic scale."""
    place = float(_places(search, key)(trial))
    return math.log10(place) if search.space[key].get("log") else place


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _end_text(search: SearchResult, key: str, end: float) -> str:
    each = search.space.get(key, {})
    if choices := each.get("choices"):
        return str(choices[min(len(choices) - 1, max(0, round(end)))])
    return f"{10**end if each.get('log') else end:.3g}"


def _label(axis: Any, search: SearchResult, key: str) -> None:
    axis.set_xlabel(key)
    each = search.space[key]
    if choices := each.get("choices"):
        axis.set_xticks(range(len(choices)), choices, rotation=20)
    elif each.get("log"):
        axis.set_xscale("log")
        style.label_powers(axis, "x")


def _scale_values(axis: Any, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) / min(values) >= TEN:
        axis.set_yscale("log")
        style.label_powers(axis)


def _value_label(search: SearchResult) -> str:
    title = f"validation {search.metric.title}"
    return f"{title} ({search.metric.unit})" if search.metric.unit else title
