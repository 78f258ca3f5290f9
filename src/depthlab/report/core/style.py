"""One look for every figure: colour-blind safe, and told apart in grey by line and marker too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from depthlab.report.core.groups import Group

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, which vanishes on white; shallow networks come first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 150
SHORT_LABEL = 14  # characters
NARROW = 20.0  # ratio of the limits of a logarithmic axis
# What captions say of a recipe.
RECIPE = {
    "optimizer.name": "optimizer",
    "optimizer.lr": "lr",
    "schedule.warmup_steps": "warm-up steps",
    "data.batch_size": "batch",
    "trainer.precision": "precision",
}
SETTINGS: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 10,
    "axes.ymargin": 0.08,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.8,  # a whole dash on both sides of the marker
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "text.parse_math": False,  # names come from files of others: a dollar sign begins no formula
}
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
POWER = re.compile(r"\^\{(-?\d+)\}")


def look() -> AbstractContextManager[None]:
    """While it is held, everything drawn has this style; no setting outlives it."""
    from matplotlib import rc_context

    return rc_context(SETTINGS)


def new_figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches with axes in a rows x columns array; no window system is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure | Image | None, folder: Path, name: str) -> None:
    """Write `name`.png and `name`.pdf, without a date, so that the same runs give the same bytes.

    A picture of PIL is written as PNG alone. None removes the two, lest the figure of an earlier report stands for one
    that is left out now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if figure is None:
        for suffix in (".png", ".pdf"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
        return
    if isinstance(figure, Image):
        figure.save(folder / f"{name}.png", optimize=True)
        return
    with look():
        # Laid out once, not again for each file.
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
        figure.set_layout_engine("none")
        figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Producer": None})


def kind_colour(kind: str, kinds: Sequence[str]) -> str:
    """The colour of a kind of network among those in the figure: plain is orange, the first residual one blue."""
    if kind == "plain":
        return COLOURS[1]
    return (COLOURS[0], *COLOURS[2:])[[name for name in kinds if name != "plain"].index(kind) % (len(COLOURS) - 1)]


def group_looks(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Colour, marker, dashes and label of each group of one kind: by depth, or by place where depths repeat."""
    depths = [group.depth for group in groups]
    ranks = sorted(set(depths))
    distinct = len(ranks) == len(depths)
    return [
        {
            "color": COLOURS[idx % len(COLOURS)],
            "marker": MARKERS[idx % len(MARKERS)],
            "linestyle": dashes(group.residual),
            "label": group.label,
        }
        for place, group in enumerate(groups)
        for idx in [ranks.index(group.depth) if distinct else place]
    ]


def legend_below(axis: Any, gap: float, columns: int) -> None:
    """A legend below the axes, in one column where labels are too long to stand side by side."""
    labels = axis.get_legend_handles_labels()[1]
    if not labels:
        return
    columns = columns if all(len(label) <= SHORT_LABEL for label in labels) else 1
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -gap), ncols=columns)


def label_powers(axis: Any, which: str = "y") -> None:
    """Label a logarithmic axis, x or y: with numbers where it has less than two decades, else with powers of ten."""
    from matplotlib.ticker import LogFormatterSciNotation

    class Powers(LogFormatterSciNotation):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return _without_math(str(super().__call__(x, pos)))

    low, high = getattr(axis, f"get_{which}lim")()
    labelled = getattr(axis, f"{which}axis")
    if high / low < NARROW:
        labelled.set_major_formatter("{x:g}")
        labelled.set_minor_formatter("{x:g}")
        axis.tick_params(axis=which, which="minor", labelsize=7)
    else:
        labelled.set_major_formatter(Powers())
        labelled.set_minor_formatter(Powers(minor_thresholds=(1, 0.4)))


def _without_math(text: str) -> str:
    """`10⁻²` for matplotlib's `$\\mathdefault{10^{-2}}$`."""
    text = text.removeprefix(r"$\mathdefault{").removesuffix("}$").replace(r"\times", " \N{MULTIPLICATION SIGN} ")
    return POWER.sub(lambda found: found[1].translate(SUPERSCRIPTS), text)


def dashes(residual: bool) -> str:
    """Residual networks are solid, plain ones dashed."""
    return "-" if residual else "--"
