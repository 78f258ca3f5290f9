"""The figure of the depth study: error against depth, linear and near zero, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from depthlab.report.core import style
from depthlab.report.core.figures import Figure, described
from depthlab.report.core.groups import Group, Setting

PANELS = ("train/err", "test/err")
NAME, TITLE = "error_vs_depth", "Error against depth"


def error_vs_depth(setting: Setting) -> Figure:
    """Training and test error against depth; below, the same on a scale that is logarithmic above one image."""
    kinds = {
        kind: [group for group in groups if group.depth and group.values("train/err")]
        for kind, groups in setting.kinds().items()
    }
    kinds = {kind: groups for kind, groups in kinds.items() if groups}
    if not kinds:
        return Figure(NAME, TITLE, "no run of a network with a depth has finished", None)
    drawing, axes = style.new_figure(2, 2, 8, 6, sharex=True)
    depths = sorted({group.depth for groups in kinds.values() for group in groups})
    task = next(iter(kinds.values()))[0].task
    for column, key in enumerate(PANELS):
        image = min(group.sample(key).floor for groups in kinds.values() for group in groups) * 2 or 0.01
        for row in range(2):
            axis = axes[row][column]
            for kind, groups in kinds.items():
                _line(axis, groups, key, kind, list(kinds))
            _scale(axis, row == 1, image, kinds.values(), key)
            axis.set_ylabel(task.heading(key) + (", logarithmic" if row else ""))
        axis.set_xlabel("depth (weighted layers)")
        axis.set_xscale("log")
        axis.set_xticks(depths, [str(depth) for depth in depths])
        axis.minorticks_off()
    axes[0][0].legend(loc="best")
    shown = [group for groups in kinds.values() for group in groups]
    caption = (
        "Final errors of the last weights against depth; training error in evaluation mode. Large points are means "
        "with 95 % intervals (three or more runs, unless only some settled; clipped to possible values), small ones "
        "are runs. Below: the same on a logarithmic axis, which is linear below one image where a run has no error. "
        f"{_broken(kinds.values())}{described(shown)}"
    )
    return Figure(NAME, TITLE, caption, drawing)


def _line(axis: Any, groups: Sequence[Group], key: str, kind: str, kinds: list[str]) -> None:
    """One kind: its means joined as long as the recipe stays the same, intervals, and the runs beside them."""
    from matplotlib.transforms import ScaledTranslation

    colour, index = style.kind_colour(kind, kinds), kinds.index(kind)
    face = colour if groups[0].residual else "white"
    marker = style.MARKERS[index % len(style.MARKERS)]
    for part_idx, part in enumerate(parts_of_one_recipe(groups, key)):
        means = [group.sample(key).mean for group in part]
        look = {"color": colour, "marker": marker, "markerfacecolor": face, "clip_on": False, "markersize": 5.5}
        label = kind if part_idx == 0 else None
        axis.plot(
            [_place(g, index, kinds) for g in part],
            means,
            style.dashes(groups[0].residual),
            label=label,
            zorder=3,
            **look,
        )
    # The runs stand a little to the right of their mean, which would hide them.
    beside = axis.transData + ScaledTranslation(7 / 72, 0, axis.figure.dpi_scale_trans)
    for group in groups:
        values = list(group.values(key).values())
        place = _place(group, index, kinds)
        axis.plot([place] * len(values), values, ".", color=colour, markersize=4, transform=beside, clip_on=False)
        if interval := interval_drawn(group, key):  # clipped: it may reach down to 0, off a logarithmic axis
            axis.plot([place] * 2, interval, marker="_", markersize=6, color=colour, linewidth=1.1, zorder=2)


def interval_drawn(group: Group, key: str) -> tuple[float, float] | None:
    """The interval of a mean over three or more runs that agree on settling."""
    summary = group.summary(key)
    if summary is None or summary.n < 3 or summary.low is None or summary.high is None:
        return None
    return None if group.num_settled(key) is not None else (summary.low, summary.high)


def parts_of_one_recipe(groups: Sequence[Group], key: str) -> list[list[Group]]:
    """The groups in order of depth, cut where the recipe changes and at a group of which only some runs settled."""
    parts: list[list[Group]] = []
    previous: Group | None = None
    for group in groups:
        if group.num_settled(key) is not None:
            previous = None
            continue
        if previous is not None and previous.recipe_apart_from_depth == group.recipe_apart_from_depth:
            parts[-1].append(group)
        else:
            parts.append([group])
        previous = group
    return parts


def _place(group: Group, index: int, kinds: Sequence[str]) -> float:
    """The group's depth, moved a little so that the intervals of two kinds do not cover each other."""
    return group.depth * (1 + 0.022 * (index - (len(kinds) - 1) / 2))


def _scale(axis: Any, logarithmic: bool, image: float, kinds: Any, key: str) -> None:
    groups = [group for members in kinds for group in members]
    values = [value for group in groups for value in group.values(key).values()]
    bars = [bar for group in groups if (bar := interval_drawn(group, key))]
    highest = max([*values, *(high for _, high in bars)])
    if not logarithmic:
        axis.set_ylim(0, 1.08 * highest or 1)
        return
    lowest = min(values)
    if lowest > 0:
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter("")
        bottom = max(image / 2, 0.6 * min([lowest, *(low for low, _ in bars if low > 0)]))
    else:  # zero has a place of its own, below one image
        axis.set_yscale("symlog", linthresh=image, linscale=0.4)
        bottom = 0.0
    top = max(1.3 * highest, 10 * image)
    decades = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
    factors = (1,) if lowest == 0 or top > 100 * bottom else (1, 2, 5) if top > 10 * bottom else (1, 2, 3, 4, 6, 8)
    ticks = [f * d for d in decades for f in factors if max(image, bottom) <= f * d <= min(top, 100)]
    axis.set_yticks(ticks if lowest else [0, *ticks], [f"{tick:g}" for tick in (ticks if lowest else [0, *ticks])])
    axis.set_ylim(bottom, top)


def _broken(kinds: Any) -> str:
    members = [group for groups in kinds for group in groups]
    changes = any(len({group.recipe_apart_from_depth for group in groups}) > 1 for groups in kinds)
    unsettled = [group.label for group in members if any(group.num_settled(key) is not None for key in PANELS)]
    text = "Lines are broken where the recipe changes. " if changes else ""
    return text + (f"Only some runs of {', '.join(unsettled)} settled, so no mean is drawn. " if unsettled else "")
