"""The figures that every sweep has: training curves, and error against depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlab.errors import InputError
from depthlab.report.core import style
from depthlab.report.core.curve_bands import BINS, Band, Floats, average, read_columns
from depthlab.report.core.groups import Group, Setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Figure:
    """A figure's file name, title, caption and drawing.

    `drawing` is None where the data are not there, and `caption` then says why.
    """

    name: str
    title: str
    caption: str
    drawing: Drawing | None


def error_vs_depth(setting: Setting) -> Figure:
    """Final errors against depth: every run a point, lines through the means, training beside test."""
    title = "Error against depth"
    kinds = {k: [g for g in groups if g.finished and g.depth] for k, groups in setting.kinds().items()}
    kinds = {kind: groups for kind, groups in kinds.items() if groups}
    if not kinds:
        return Figure("error_vs_depth", title, "no run of a network with a depth has finished", None)
    drawing, axes = style.new_figure(1, 2, 8, 3.4)
    panels = (("train/err", "training error (%)"), ("test/err", "test error (%)"))
    for axis, (metric, label) in zip(axes[0], panels, strict=True):
        for kind, groups in kinds.items():
            _depth_line(axis, groups, metric, kind, list(kinds))
        depths = sorted({group.depth for groups in kinds.values() for group in groups})
        if depths[-1] > 10 * depths[0]:
            axis.set_xscale("log")
        axis.set_xticks(depths, [str(depth) for depth in depths])
        axis.minorticks_off()
        axis.set(xlabel="depth (weighted layers)", ylabel=label)
        highest = max(max(g.errors(metric).values()) for groups in kinds.values() for g in groups)
        axis.set_ylim(0, 1.08 * highest or 1)
    axes[0][0].legend()
    caption = (
        "Final errors of the last weights against depth. Each small point is a run, beside the mean that the "
        "line goes through. "
        "Training error is that of the final weights in evaluation mode."
    )
    return Figure("error_vs_depth", title, caption, drawing)


def training_curves(setting: Setting) -> Figure:
    """The form of the paper's Figure 6: running training error thin, validation or test curve bold, a panel a kind."""
    title = "Training curves"
    kinds, problems = _read_kinds(setting)
    if not kinds:
        return Figure("curves", title, "; ".join(problems) or "no run has finished", None)
    depths = [group.depth for members in kinds.values() for group, _ in members]
    drawing, axes = style.new_figure(1, len(kinds), 4.2 * len(kinds), 4.1, sharey=True)
    for axis, (kind, members) in zip(axes[0], kinds.items(), strict=True):
        for group, bands in members:
            colour = style.colour(group.depth, depths)
            look = {"color": colour, "marker": style.marker(group.depth, depths), "label": group.label}
            _draw_bands(axis, bands, style.dashes(group.residual), look)
        axis.set(title=kind, xlabel="iterations")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        # Curves of many depths leave no room inside that is free in every sweep.
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    axes[0][0].set_ylabel("error (%)")
    _limit_height(axes[0], kinds)
    bold = sorted({name for members in kinds.values() for _, bands in members for name in bands} - {"train/err"})
    names = {"val/err": "validation error", "test/err": "the test curve"}
    caption = (
        f"Thin: running training error; bold: {' or '.join(names[name] for name in bold) or 'nothing was measured'}. "
        "Lines are means over runs, bands reach from the lowest to the highest run. "
        + _points(kinds)
        + (" These are copies whose curves were thinned." if _are_thinned(kinds) else "")
        + "".join(f" Not drawn: {problem}." for problem in problems)
    )
    return Figure("curves", title, caption, drawing)


def _depth_line(axis: Any, groups: Sequence[Group], metric: str, kind: str, kinds: list[str]) -> None:
    from matplotlib.transforms import ScaledTranslation

    residual, index = groups[0].residual, kinds.index(kind)
    colour = style.kind_colour(kind, kinds)
    means = [summary.mean for group in groups if (summary := group.summary(metric))]
    axis.plot(
        [group.depth for group in groups],
        means,
        style.dashes(residual),
        color=colour,
        marker=style.MARKERS[index % len(style.MARKERS)],
        markerfacecolor=colour if residual else "white",
        label=kind,
        clip_on=False,
    )
    # The runs stand a little to the right of their mean, which would hide them; one column for each kind.
    beside = axis.transData + ScaledTranslation((7 + 4 * index) / 72, 0, axis.figure.dpi_scale_trans)
    for group in groups:
        errors = list(group.errors(metric).values())
        axis.plot([group.depth] * len(errors), errors, ".", color=colour, markersize=4, transform=beside, clip_on=False)


Bands = dict[str, Band]


def _read_kinds(setting: Setting) -> tuple[dict[str, list[tuple[Group, Bands]]], list[str]]:
    """The curves of every kind, averaged group by group so that only one run's points are held as text."""
    kinds: dict[str, list[tuple[Group, Bands]]] = {}
    problems: list[str] = []
    for kind, groups in setting.kinds().items():
        for group in groups:
            if bands := _read_bands(group, problems):
                kinds.setdefault(kind, []).append((group, bands))
    return kinds, problems


def _read_bands(group: Group, problems: list[str]) -> Bands:
    curves: dict[str, list[tuple[Floats, Floats]]] = {}
    for run in group.finished:
        try:
            columns = read_columns(run.directory, ("train/err", "val/err", "test/err"))
        except InputError as error:
            problems.append(str(error).replace(str(run.directory), run.directory.name).rstrip("."))
            continue
        if run.record["data"].get("test_curve"):
            columns.pop("val/err", None)
        else:
            columns.pop("test/err", None)
        for name, curve in columns.items():
            curves.setdefault(name, []).append(curve)
    last = max((run.record["steps"] for run in group.finished), default=1)
    return {name: average(members, last) for name, members in curves.items()}


def _draw_bands(axis: Any, bands: Bands, dashes: str, look: dict[str, Any]) -> None:
    for name, band in bands.items():
        bold = name != "train/err"
        if bold or len(bands) == 1:
            # Markers tell depths apart where colour is not printed.
            every = max(1, len(band.step) // 10)
            axis.plot(band.step, band.mean, dashes, linewidth=1.8, markersize=4, markevery=every, **look)
        else:
            axis.plot(band.step, band.mean, color=look["color"], linewidth=0.7, alpha=0.8)
        axis.fill_between(band.step, band.low, band.high, color=look["color"], alpha=0.12, linewidth=0)


def _limit_height(axes: Sequence[Any], kinds: dict[str, list[tuple[Group, Bands]]]) -> None:
    """Cut the first steps off, where every network is near chance, as the paper does; never a final value."""
    bands = [band for members in kinds.values() for _, bands in members for band in bands.values()]
    settled = max(float(band.mean[len(band.mean) // 10 :].max()) for band in bands)
    axes[0].set_ylim(0, min(100.0, 1.1 * settled + 1))


def _are_thinned(kinds: dict[str, list[tuple[Group, Bands]]]) -> bool:
    """Whether a run's record says that it was copied with fewer points than were logged."""
    runs = [run.record.get("published") for members in kinds.values() for group, _ in members for run in group.finished]
    return any(n > copy["max_points"] for copy in runs if copy for n in copy["points_before"].values())


def _points(kinds: dict[str, list[tuple[Group, Bands]]]) -> str:
    total = sum(band.num_points for members in kinds.values() for _, bands in members for band in bands.values())
    longest = max(band.num_points for members in kinds.values() for _, bands in members for band in bands.values())
    thinned = f"; where a curve has more than {BINS}, a drawn point is the mean of its bin" if longest > BINS else ""
    return f"All {total:,} logged points are used{thinned}."


DEFAULT: tuple[Callable[[Setting], Figure], ...] = (error_vs_depth, training_curves)
