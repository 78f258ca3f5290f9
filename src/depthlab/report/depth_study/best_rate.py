"""The best learning rate against depth: of each seed the rate with the lowest validation error, and its trend.

Shown where a sweep has three or more rates at two or more depths. Whoever doubts that a deep network degrades asks
whether its rate was tuned; this says which rate was best at each depth, and what the error was there.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from depthlab.report.core import style
from depthlab.report.core.document import Finding, Section
from depthlab.report.core.figures import Figure
from depthlab.report.core.groups import Group
from depthlab.report.core.margin import declares
from depthlab.report.core.statistics import Difference, combine, summarize
from depthlab.report.core.table import Table
from depthlab.report.depth_study.rate_families import (
    FEWEST_DEPTHS,
    Depth,
    Family,
    find_families,
    slope,
    slope_weights,
)

CLAIM = "best rate"  # as an experiment's file names it
NOTE = (
    "The best rate of a seed is the one with the lowest error among the rates that were run; where several have that "
    "error, their geometric mean. Trends are slopes of its logarithm over the logarithm of the depth, with 95 % "
    "intervals whose standard deviations are at least those of rounding to the rates."
)


def rate_sections(groups: Sequence[Group], declared: bool | None = None) -> list[Section]:
    """The section of the best rates; none where no kind of network has enough rates and depths.

    Args:
        groups: all groups of a report.
        declared: whether the trends were claims before the runs; by default what the experiment's file states. Without
            that they are exploration, and get no verdict.
    """
    families = find_families(groups)
    if not families:
        return []
    if declared is None:
        declared = declares([str(run.record["name"]) for group in groups for run in group.runs], CLAIM)
    findings = [_trend_finding(family) for family in families if len(family.judged) >= FEWEST_DEPTHS]
    findings += _difference_finding(families)
    explored = [] if declared else [f"Exploratory, {f.title[0].lower()}{f.title[1:]}: {f.text}" for f in findings]
    with style.look():
        figure = rate_figure(families)
    return [
        Section(
            "Best learning rate against depth",
            tuple(findings) if declared else (),
            (*explored, *_unlearned(families)),
            NOTE,
            (_table(families),),
            (figure,),
            in_terminal=True,
        )
    ]


def _unlearned(families: Sequence[Family]) -> list[str]:
    return [
        f"{family.kind}, depth {each.depth}: no rate leaves the error clearly below chance, so none is the best."
        for family in families
        for each in family.depths
        if not each.learned
    ]


def _trend_finding(family: Family) -> Finding:
    trend = slope(family.judged)
    depths = ", ".join(str(each.depth) for each in family.judged)
    text = f"The best rate changes by a factor of {_factor(trend.mean)} for each doubling of depth "
    text += f"({_interval(trend)}; depths {depths}; n = {' and '.join(sorted({str(n) for n in trend.n}))} a depth)."
    if at_edge := sum(each.at_edge for each in family.judged):
        text += (
            f" {at_edge} of {sum(each.best.n for each in family.judged)} best rates are the lowest or the highest that "
            "was run, so the trend may be steeper."
        )
    return Finding(
        f"Best rate, {family.kind}", _word(trend), text, "open" if _word(trend) == "no trend shown" else "good"
    )


def _difference_finding(families: Sequence[Family]) -> list[Finding]:
    """How the trends of plain and residual networks differ, over the depths that both have."""
    plain = next((family for family in families if family.kind == "plain"), None)
    other = next((family for family in families if family.kind.startswith("residual")), None)
    if plain is None or other is None:
        return []
    shared = {each.depth for each in plain.judged} & {each.depth for each in other.judged}
    first, second = ([each for each in family.judged if each.depth in shared] for family in (plain, other))
    if len(shared) < FEWEST_DEPTHS:
        return []
    weights = slope_weights(first)
    between = combine([each.best for each in (*first, *second)], [*weights, *(-weight for weight in weights)])
    low = between.interval
    word = "not shown to differ" if low is None or low[0] <= 0 <= low[1] else "differ"
    text = (
        f"The factor of plain networks is {_factor(between.mean)} times that of {other.kind} ones "
        f"({_interval(between)}; depths {', '.join(str(each.depth) for each in first)})."
    )
    return [Finding("Trends of plain and residual networks", word, text, "good" if word == "differ" else "open")]


def _word(trend: Difference) -> str:
    if trend.interval is None:
        return "no trend shown"
    low, high = trend.interval
    return "falls with depth" if high < 0 else "rises with depth" if low > 0 else "no trend shown"


def _factor(decades: float) -> str:
    return f"{10**decades:.2f}"


def _interval(trend: Difference) -> str:
    if trend.interval is None:
        return "no interval: one run"
    return f"95 % CI {_factor(trend.interval[0])} to {_factor(trend.interval[1])}"


def _table(families: Sequence[Family]) -> Table:
    task = next(iter(families[0].depths[0].groups.values())).task
    with_training = families[0].key != f"train/{task.primary}"
    rows = []
    for family in families:
        for each in family.depths:
            summary = summarize(each.best)
            error, rates = _lowest(each, family.key)
            training = _lowest(each, f"train/{task.primary}") if with_training else ()
            bounds = None if summary.low is None or summary.high is None else (summary.low, summary.high)
            interval = f"{10 ** bounds[0]:.2g} to {10 ** bounds[1]:.2g}" if bounds and each.learned else None
            best = float(f"{10**summary.mean:.2g}") if each.learned else None
            rows.append(
                (
                    *(family.kind, each.depth, len(each.groups), summary.n, best, interval, each.at_edge, rates, error),
                    *(training[::-1] if with_training else ()),
                )
            )
    first = ("networks", "depth", "rates", "n", "best rate", "95 % CI", "at the edge")
    keys = [families[0].key, *([f"train/{task.primary}"] if with_training else [])]
    header = (*first, *(title for key in keys for title in (f"rate of the lowest {task.heading(key)}", "its mean")))
    caption = (
        "Geometric mean of the seeds' best rates with its t interval; beside it the rate with the lowest mean error, "
        "and that error, which is exploration."
    )
    return Table("best_rate", caption, header, tuple(rows))


def _lowest(each: Depth, key: str) -> tuple[float, str]:
    """The best mean, and the rates that have it."""
    metric = next(iter(each.groups.values())).metric(key)
    means = {
        rate: statistics.fmean(values) for rate, group in each.groups.items() if (values := group.values(key).values())
    }
    best = min(means.values(), key=metric.shortfall)
    return best, ", ".join(f"{rate:g}" for rate, mean in means.items() if mean == best)


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
