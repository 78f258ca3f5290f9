"""The figure of the best rates: the best rate against depth, and beside it error against rate for each kind."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from depthlab.report.core import style
from depthlab.report.core.figures import Figure
from depthlab.report.core.statistics import summarize
from depthlab.report.depth_study.rate_families import Family


def rate_figure(families: Sequence[Family]) -> Figure:
    """Best rate against depth; beside it error against rate for each kind."""
    drawing, axes = style.new_figure(1, 1 + len(families), 3.6 * (1 + len(families)), 3.6)
    kinds = [family.kind for family in families]
    for idx, family in enumerate(families):
        _draw_best(axes[0][0], family, style.kind_colour(family.kind, kinds), 1 + 0.08 * (idx - (len(kinds) - 1) / 2))
        _draw_errors(axes[0][1 + idx], family)
    depths = sorted({each.depth for family in families for each in family.depths})
    axes[0][0].set_xscale("log")
    axes[0][0].set_yscale("log")
    axes[0][0].set_xticks(depths, [str(depth) for depth in depths])
    rates = sorted({rate for family in families for each in family.depths for rate in each.groups})
    axes[0][0].set_yticks(rates, [f"{rate:g}" for rate in rates])
    axes[0][0].minorticks_off()
    axes[0][0].set_xlabel("depth (weighted layers)")
    axes[0][0].set_ylabel("best learning rate")
    style.legend_below(axes[0][0], gap=0.16, columns=2)
    caption = (
        "Left: the best rate of each seed (small points) and their geometric mean with its 95 % interval, against "
        "depth. Right: error against the rate, a line through the means of each depth, and each run as a point; "
        "diverged runs count at chance."
    )
    return Figure("best_rate", "Best learning rate against depth", caption, drawing)


def _draw_best(axis: Any, family: Family, colour: str, shift: float) -> None:
    depths = family.judged
    residual = family.kind != "plain"
    means = [10**each.best.mean for each in depths]
    face = colour if residual else "white"
    places = [each.depth * shift for each in depths]
    axis.plot(places, means, style.dashes(residual), marker="o", color=colour, mfc=face, label=family.kind, zorder=3)
    for place, each in zip(places, depths, strict=True):
        values = [10**value for value in each.best.values.values()]
        axis.plot([place * 1.035] * len(values), values, ".", color=colour, ms=4)
        summary = summarize(each.best)
        if summary.n > 2 and summary.low is not None and summary.high is not None:
            axis.plot([place] * 2, [10**summary.low, 10**summary.high], color=colour, lw=1.1, marker="_", zorder=2)


def _draw_errors(axis: Any, family: Family) -> None:
    for idx, each in enumerate(family.depths):
        rates = [rate for rate, group in each.groups.items() if group.values(family.key)]
        means = [statistics.fmean(each.groups[rate].values(family.key).values()) for rate in rates]
        look = {"color": style.COLOURS[idx % len(style.COLOURS)], "marker": style.MARKERS[idx % len(style.MARKERS)]}
        axis.plot(rates, means, style.dashes(family.kind != "plain"), ms=4, label=str(each.depth), **look)
        for rate in rates:
            values = list(each.groups[rate].values(family.key).values())
            axis.plot([rate * (1.05 + 0.03 * idx)] * len(values), values, ".", color=look["color"], ms=3)
    group = next(iter(family.depths[0].groups.values()))
    rates = sorted({rate for each in family.depths for rate in each.groups})
    axis.set_xscale("log")
    axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.set_xlabel("learning rate")
    axis.set_ylabel(group.task.heading(family.key))
    axis.set_title(family.kind)
    axis.legend(title="depth", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
