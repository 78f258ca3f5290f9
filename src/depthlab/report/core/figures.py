"""The figures that every sweep has: final values of each network, and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from depthlab.report.core import style
from depthlab.report.core.curve_bands import BINS, Band
from depthlab.report.core.group_curves import GroupCurves
from depthlab.report.core.groups import Group, Setting
from depthlab.report.core.task_description import Task, split_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing
    from PIL.Image import Image

# Up to this many runs, each is a line of its own; beyond, a band from the lowest to the highest run.
FEW_RUNS = 5
# A figure of more networks than this would not be legible.
MOST_GROUPS = 24
MOST_CURVES = 8
LABEL_WIDTH = 36  # characters


@dataclass(frozen=True)
class Figure:
    """A figure's file name, title, caption and drawing.

    `drawing` is None where the data are missing; `caption` then gives the reason.
    """

    name: str
    title: str
    caption: str
    drawing: Drawing | Image | None


def strip_plot(groups: Sequence[Group]) -> Figure:
    """Every run of every network as a point, beside the mean and its interval; a panel for each split."""
    name, title = "final_values", "Final values"
    shown = [group for group in groups if group.measured_keys()][:MOST_GROUPS]
    if not shown:
        return Figure(name, title, "no run has finished", None)
    task = shown[0].task
    shown = [group for group in shown if group.task.name == task.name]
    with_val = any(group.has_folds for group in shown)
    keys = [f"{split}/{task.primary}" for split in ("train", "val", "test") if split != "val" or with_val]
    keys = [key for key in keys if any(group.values(key) for group in shown)]
    lines = sum(len(wrap(group.label, LABEL_WIDTH)) for group in shown)
    height = 1.3 + max(0.34 * len(shown), 0.16 * lines)
    drawing, axes = style.new_figure(1, len(keys), 2.2 + 3.3 * len(keys), height, sharey=True)
    for axis, key in zip(axes[0], keys, strict=True):
        _pair_lines(axis, shown, key)
        for row, group in enumerate(shown):
            _strip(axis, row, group, key)
        axis.set(xlabel=task.heading(key))
        axis.grid(False, axis="y")
        axis.margins(x=0.06)
    axes[0][0].set_yticks(range(len(shown)), [fill(group.label, LABEL_WIDTH) for group in shown])
    axes[0][0].set_ylim(len(shown) - 0.4, -0.6)
    caption = (
        "Final values of the last weights. Small points are runs; the large one is their mean, the bar its 95 % "
        "interval (three or more runs, clipped to possible values). Lines join runs of one network and one seed under "
        f"two recipes. {described(shown)}"
    )
    if len(groups) > len(shown):
        caption += f" Not drawn: {', '.join(group.label for group in groups if group not in shown)}."
    return Figure(name, title, caption, drawing)


def training_curves(setting: Setting, curves: Mapping[str, GroupCurves]) -> Figure:
    """The running training metric above the held-out one against steps, a column for each kind of network."""
    name, title = "curves", "Training curves"
    kinds = {k: [curves[g.label] for g in groups if curves[g.label].bands] for k, groups in setting.kinds().items()}
    kinds = {kind: members[:MOST_CURVES] for kind, members in kinds.items() if members}
    problems = [problem for group in setting.groups for problem in curves[group.label].problems]
    if not kinds:
        return Figure(name, title, "; ".join(problems[:3]) or "no run has finished", None)
    splits = [s for s in ("train", "val", "test") if any(_of_split(c, s) for m in kinds.values() for c in m)]
    columns = min(len(kinds), 6)
    drawing, axes = style.new_figure(
        len(splits), columns, max(4.5, 3.7 * columns), 2.5 * len(splits) + 0.5, sharey="row", sharex="col"
    )
    for column, (kind, members) in enumerate(list(kinds.items())[:columns]):
        looks = style.group_looks([member.group for member in members])
        for row, split in enumerate(splits):
            for member, look in zip(members, looks, strict=True):
                _draw_curves(axes[row][column], _of_split(member, split), look)
        axes[0][column].set_title(kind)
        axes[-1][column].set_xlabel("steps")
        axes[-1][column].xaxis.set_major_formatter("{x:,.0f}")
        axes[-1][column].xaxis.get_major_locator().set_params(nbins=5)
        style.legend_below(axes[-1][column], gap=0.26, columns=2)
    task = next(iter(kinds.values()))[0].group.task
    for row, split in enumerate(splits):
        axes[row][0].set_ylabel(_axis_title(task, split))
        _limit_height(axes[row], [b for m in kinds.values() for c in m if (b := _of_split(c, split))])
    return Figure(name, title, _curves_caption(kinds, problems, list(setting.groups)), drawing)


def described(groups: Sequence[Group]) -> str:
    """n, steps and recipe of the groups in a figure, for its caption."""
    counts = sorted({len(group.values(f"train/{group.task.primary}")) for group in groups})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    steps = sorted({int(run.record["steps"]) for group in groups for run in group.finished})
    span = " to ".join(f"{s:,}" for s in dict.fromkeys((steps[0], steps[-1]))) if steps else "no"
    parts = [n, f"{span} steps", *_recipe(groups)]
    return f"{'; '.join(parts)}."


def _recipe(groups: Sequence[Group]) -> list[str]:
    """The few values that readers ask for first, each with every value that it has among the groups."""
    found = []
    for key, words in style.RECIPE.items():
        values = list(dict.fromkeys(str(v) for group in groups if (v := group.config.get(key)) is not None))
        if values and values != ["0"]:
            found.append(f"{words} {' or '.join(values)}")
    return found


def _strip(axis: Any, row: int, group: Group, key: str) -> None:
    values = list(group.values(key).values())
    if not values:
        return
    colour = style.COLOURS[1] if not group.residual else style.COLOURS[0]
    axis.plot(values, [row - lift for lift in _stacked(values)], ".", color=colour, markersize=4.5, clip_on=False)
    summary = group.summary(key)
    if summary is None or group.num_settled(key) is not None or len(values) < 2:
        return
    if summary.low is not None and summary.high is not None and summary.n > 2:
        axis.plot([summary.low, summary.high], [row + 0.22] * 2, color=colour, linewidth=1.4, clip_on=False)
    axis.plot([summary.mean], [row + 0.22], "D", color=colour, markersize=4.5, markerfacecolor="white", clip_on=False)


def _stacked(values: Sequence[float]) -> list[float]:
    """How far each point is lifted off its row, so that equal values of several runs stay visible."""
    seen: dict[float, int] = {}
    lifts = []
    for value in values:
        place = seen.get(round(value, 6), 0)
        seen[round(value, 6)] = place + 1
        lifts.append(min(0.05 * place, 0.45))
    return lifts


def _pair_lines(axis: Any, groups: Sequence[Group], key: str) -> None:
    """A grey line for each seed between neighbours that are one network under two recipes."""
    for row, (upper, lower) in enumerate(pairwise(groups)):
        if upper.network != lower.network:
            continue
        first, second = upper.values(key), lower.values(key)
        for repetition in first.keys() & second.keys():
            axis.plot([first[repetition], second[repetition]], [row, row + 1], color="#bbbbbb", linewidth=0.5, zorder=0)


def _of_split(curves: GroupCurves, split: str) -> Band | None:
    return next((band for key, band in curves.bands.items() if split_of(key) == split), None)


def _draw_curves(axis: Any, band: Band | None, look: dict[str, Any]) -> None:
    """Each run thin where they are few, else their range; the mean in bold, with markers for print without colour."""
    if band is None:
        return
    if len(band.runs) <= FEW_RUNS:
        for run in band.runs if len(band.runs) > 1 else ():
            axis.plot(band.step, run, color=look["color"], linewidth=0.6, alpha=0.55)
    else:
        axis.fill_between(band.step, band.low, band.high, color=look["color"], alpha=0.15, linewidth=0)
    axis.plot(band.step, band.mean, linewidth=1.6, markersize=4, markevery=max(1, len(band.step) // 8), **look)


def _limit_height(axes: Sequence[Any], bands: Sequence[Band]) -> None:
    """Cut off the first steps, where every network is near chance, as the paper does; never a final value."""
    highest = max(float(np.nanmax(band.runs[:, band.runs.shape[1] // 10 :])) for band in bands)
    if min(float(band.low.min()) for band in bands) >= 0:
        axes[0].set_ylim(0, 1.05 * highest or 1)


def _axis_title(task: Task, split: str) -> str:
    key = f"{split}/{task.primary}"
    return task.heading(f"{key}_running" if split == "train" else key)


def _curves_caption(
    kinds: Mapping[str, Sequence[GroupCurves]], problems: Sequence[str], groups: Sequence[Group]
) -> str:
    bands = [band for members in kinds.values() for curves in members for band in curves.bands.values()]
    total, longest = sum(band.num_points for band in bands), max(band.num_points for band in bands)
    thinned = f"; where a curve has more than {BINS}, a drawn point is the mean of its bin" if longest > BINS else ""
    few = max(len(band.runs) for band in bands) <= FEW_RUNS
    copies = any(curves.is_thinned for members in kinds.values() for curves in members)
    drawn = [curves.group for members in kinds.values() for curves in members]
    hidden = [group.label for group in groups if group.finished and group not in drawn]
    return (
        f"Bold: mean over runs. {'Thin: runs.' if few else 'Bands reach from the lowest to the highest run.'} "
        f"{described(drawn)} All {total:,} logged points are used{thinned}; "
        "the vertical axis may end below those of the first tenth."
        + (" These are copies whose curves were thinned." if copies else "")
        + (f" Not drawn: {', '.join(hidden)}." if hidden else "")
        + "".join(f" Not read: {problem}." for problem in problems[:3])
    )
