"""The figures that need what a run recorded of the network itself: responses, gradients, predictions, mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from depthlab.report.core import style
from depthlab.report.core.diagnostics import (
    Array,
    Members,
    class_errors,
    class_names,
    collapsed_apart,
    confusion,
    mean_over_runs,
    read_members,
    read_shown,
)
from depthlab.report.core.figures import Figure, described
from depthlab.report.core.groups import Setting

NUM_MISTAKES = 8
# Beyond this many classes the numbers in a matrix's cells would not be legible.
MOST_CELLS = 12
# Beyond this many, names would overlap: matrices are numbered, and the bars show the classes with the most errors.
MOST_NAMED = 25
EVERY_NUMBER = 10
MOST_LINES = 7  # steps at which gradients are drawn
MOST_PANELS = 4


def layer_responses(setting: Setting) -> Figure:
    """The deviation of each 3x3 layer's output in order, as in the paper's Figure 7; a panel for each kind."""
    name, title, problems = "responses", "Layer responses", list[str]()
    kinds = {kind: read_members(groups, "responses", problems) for kind, groups in setting.kinds().items()}
    kinds = {kind: members for kind, members in list(kinds.items())[:MOST_PANELS] if members}
    if not kinds:
        return _absent(name, title, "responses", problems)
    drawing, axes = style.new_figure(1, len(kinds), max(4.8, 4.2 * len(kinds)), 3.4, sharey=True)
    for axis, (kind, members) in zip(axes[0], kinds.items(), strict=True):
        for member, look in zip(members, style.group_looks([m.group for m in members]), strict=True):
            std = np.maximum(mean_over_runs(member, "std"), 1e-12)
            place = np.linspace(0, 1, len(std))
            axis.plot(place, std, linewidth=1.1, markersize=3.5, markevery=0.12, **look)
        axis.set(title=kind, xlabel="position of the layer (0 first, 1 last)", yscale="log")
        style.legend_below(axis, gap=0.2, columns=3)
    for axis in axes[0]:
        style.label_powers(axis)
    axes[0][0].set_ylabel("standard deviation")
    shown = [member.group for members in kinds.values() for member in members]
    caption = (
        "Standard deviation of the output of each 3x3 layer, after normalisation and before the nonlinearity or "
        f"addition, with the last weights; means over runs, logarithmic. {described(shown)}"
    )
    return Figure(name, title, caption + _not_read(problems), drawing)


def confusion_matrices(setting: Setting) -> Figure:
    """The confusion matrices of the shown networks, and the error of each class."""
    name, title, problems = "confusion", "Confusion", list[str]()
    members = read_shown(setting, "predictions", problems)
    if not members:
        return _absent(name, title, "predictions", problems)
    classes = class_names(setting.groups, members)
    single = [collapsed_apart(member) for member in members]
    counts = [
        confusion(member.arrays[:1] if alone else member.arrays, len(classes))
        for member, alone in zip(members, single, strict=True)
    ]
    widths = [*(1.0 for _ in members), 0.8]
    drawing, axes = style.new_figure(1, len(widths), 4 * sum(widths), 4.3, width_ratios=widths)
    shares = [100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1) for matrix in counts]
    highest = max(1.0, *(float((share - np.diag(np.diag(share))).max()) for share in shares))
    for axis, member, share, alone in zip(axes[0], members, shares, single, strict=False):
        label = member.runs[0].name if alone else member.group.label
        _draw_matrix(axis, share, highest, classes, label)
    _draw_class_errors(axes[0][-1], members, classes)
    caption = "Percent of each class's test images by predicted class, over all runs; wrong cells are shaded. "
    if any(single):
        labels = " and ".join(member.group.label for member, alone in zip(members, single, strict=True) if alone)
        caption += (
            f"Runs of {labels} predict mostly one class, and not the same one, so the matrix is that of one run. "
        )
    caption += f"Right: error of each class, a point a run, a bar at the mean. {described([m.group for m in members])}"
    if len(classes) > MOST_NAMED:
        caption += " Classes are numbered in the order of the record's data.classes."
    return Figure(name, title, caption + _not_read(problems), drawing)


def gradient_norms(setting: Setting) -> Figure:
    """The gradient's norm by layer at logarithmically spaced steps, a panel for each shown network."""
    name, title, problems = "gradients", "Gradient norms", list[str]()
    members = read_shown(setting, "gradients", problems)
    if not members:
        return _absent(name, title, "gradient norms", problems)
    drawing, axes = style.new_figure(1, len(members), max(4.8, 4.4 * len(members)), 3.5, sharey=True)
    for axis, member in zip(axes[0], members, strict=True):
        _draw_gradients(axis, member)
    for axis in axes[0]:
        style.label_powers(axis)
    axes[0][0].set_ylabel("L2 norm of the gradient")
    axes[0][-1].legend(title="step", loc="center left", bbox_to_anchor=(1.02, 0.5))
    caption = (
        "L2 norm of the loss's gradient for each layer's weights, geometric means over runs, before the first step "
        "and at those of the recorded steps that come nearest to even spacing on a logarithmic scale. "
        f"{described([member.group for member in members])}"
    )
    return Figure(name, title, caption + _not_read(problems), drawing)


def mistakes(setting: Setting) -> Figure:
    """The test images that the shown networks misclassify with the greatest confidence."""
    name, title, problems = "mistakes", "Most confident mistakes", list[str]()
    members = read_shown(setting, "mistakes", problems)
    if not members:
        return _absent(name, title, "misclassified images", problems)
    classes = class_names(setting.groups, members)
    drawing, axes = style.new_figure(len(members), NUM_MISTAKES, 9, 0.2 + 1.6 * len(members))
    for row, member in zip(axes, members, strict=True):
        _draw_mistakes(row, member.arrays[0], classes)
        row[0].set_ylabel(fill(member.group.label, 16), fontsize=8)
    runs = " and ".join(member.runs[0].name for member in members)
    caption = f"Test images that were misclassified with the greatest confidence ({runs}): label, then prediction."
    return Figure(name, title, caption + _not_read(problems), drawing)


def log_spaced(steps: Array) -> list[int]:
    """Indices of up to seven of the recorded steps: the first, the last, and those nearest to a geometric series."""
    if len(steps) <= MOST_LINES:
        return list(range(len(steps)))
    first = float(steps[1]) if steps[0] == 0 else float(steps[0])
    wanted = np.geomspace(max(first, 1), max(float(steps[-1]), 2), MOST_LINES - 1)
    return sorted({0, *(int(np.abs(steps - value).argmin()) for value in wanted)})


def _draw_gradients(axis: Any, member: Members) -> None:
    from matplotlib import colormaps

    steps = member.arrays[0]["step"]
    alike = [a["norm"] for a in member.arrays if a["norm"].shape == member.arrays[0]["norm"].shape]
    positive = np.ma.masked_less_equal(np.array(alike, dtype=np.float64), 0)  # a norm that underflowed is a gap
    norms = np.ma.exp(np.ma.log(positive).mean(axis=0))
    chosen = log_spaced(steps)
    for place, idx in enumerate(chosen):
        colour = colormaps["viridis"](0.9 * place / max(1, len(chosen) - 1))
        layers = np.arange(1, norms.shape[1] + 1)
        axis.plot(layers, norms[idx], color=colour, linewidth=1.2, label=f"{int(steps[idx]):,}")
    axis.set(title=member.group.label, xlabel="layer, in order", yscale="log")
    axis.xaxis.get_major_locator().set_params(integer=True)


def _draw_matrix(axis: Any, share: Array, highest: float, classes: Sequence[str], label: str) -> None:
    wrong = np.ma.masked_array(share, np.eye(len(share), dtype=bool))
    axis.imshow(wrong, cmap="Blues", vmin=0, vmax=highest)
    if len(classes) <= MOST_CELLS:
        for i, row in enumerate(share):
            for j, value in enumerate(row):
                colour = "white" if i != j and value > 0.6 * highest else "black"
                text = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.05 else ""
                axis.text(j, i, text, ha="center", va="center", fontsize=6, color=colour).set_in_layout(False)
    names = len(classes) <= MOST_NAMED
    ticks = range(0, len(classes), 1 if names else EVERY_NUMBER)
    shown = [classes[tick] if names else str(tick) for tick in ticks]
    axis.set_xticks(ticks, shown, rotation=90, fontsize=7)
    axis.set_yticks(ticks, shown, fontsize=7)
    axis.grid(False)
    axis.set(title=label, xlabel="predicted", ylabel="label")


def _draw_class_errors(axis: Any, members: Sequence[Members], classes: Sequence[str]) -> None:
    errors = [
        np.array([class_errors(confusion([arrays], len(classes))) for arrays in member.arrays]) for member in members
    ]
    chosen = _most_errors(errors, len(classes))
    height = 0.68 / len(members)
    for place, (member, values) in enumerate(zip(members, errors, strict=True)):
        colour = style.COLOURS[1 - place] if len(members) > 1 else style.COLOURS[0]
        runs = values[:, chosen]
        rows = np.arange(len(chosen)) + height * (place - (len(members) - 1) / 2)
        hatch = None if member.group.residual else "////"
        face = colour if member.group.residual else "white"
        label = member.group.label
        axis.barh(rows, np.mean(runs, axis=0), 0.94 * height, color=face, edgecolor=colour, hatch=hatch, label=label)
        for run in runs:
            axis.plot(run, rows, "k.", markersize=2, clip_on=False)
    axis.set_yticks(range(len(chosen)), [classes[idx] for idx in chosen], fontsize=7)
    part = "" if len(chosen) == len(classes) else f": the {len(chosen)} worst of {len(classes)}"
    axis.set(xlabel="test error of the class (%)", title=f"error by class{part}")
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_axisbelow(True)
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=1)


def _most_errors(errors: Sequence[Array], num_classes: int) -> Array:
    """The classes to show: all, or those with the highest errors over the shown networks."""
    if num_classes <= MOST_NAMED:
        return np.arange(num_classes)
    means = np.mean([np.mean(values, axis=0) for values in errors], axis=0)
    worst: Array = np.argsort(-np.nan_to_num(means), kind="stable")[:MOST_NAMED]
    return worst


def _draw_mistakes(row: Sequence[Any], arrays: dict[str, Array], classes: Sequence[str]) -> None:
    for i, axis in enumerate(row):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        axis.set_frame_on(False)
        if i >= len(arrays["image"]):
            continue
        image = arrays["image"][i]
        axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", interpolation="nearest")
        label, predicted = classes[arrays["label"][i]], classes[arrays["predicted"][i]]
        axis.set_title(f"{label}\n→ {predicted}\n{100 * arrays['confidence'][i]:.0f} %", fontsize=7)


def _absent(name: str, title: str, what: str, problems: Sequence[str]) -> Figure:
    reason = f"no finished runs with {what}" if not problems else _shorten(problems)
    return Figure(name, title, reason, None)


def _not_read(problems: Sequence[str]) -> str:
    return f" Not included: {_shorten(problems)}." if problems else ""


def _shorten(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


DIAGNOSTIC: tuple[Callable[[Setting], Figure], ...] = (
    layer_responses,
    confusion_matrices,
    gradient_norms,
    mistakes,
)


def draw_reliability(path: Path, bins: Sequence[Sequence[float]], title: str) -> None:
    """Write a PNG: the part of the answers that is right against their confidence; on the diagonal both are equal.

    Bars show which part of the images a point stands for.

    Args:
        path: of the file.
        bins: mean confidence, part that is right and number of images of each.
        title: what was measured.
    """
    drawing, axes = style.new_figure(1, 1, 4.2, 4.0)
    confidence, right, counts = zip(*bins, strict=True)
    parts = [count / sum(counts) for count in counts]
    axes[0][0].bar(confidence, parts, width=0.03, color="#cccccc", label="part of the images")
    axes[0][0].plot([0, 1], [0, 1], color="#999999", linestyle=":", linewidth=1.0)
    axes[0][0].plot(confidence, right, color=style.COLOURS[0], marker="o", markersize=3.5, label="part that is right")
    axes[0][0].set(xlabel="confidence", xlim=(0, 1.02), ylim=(0, 1.02))
    axes[0][0].set_title(title, fontsize="small")
    axes[0][0].legend(loc="upper left", fontsize="small")
    with style.look():
        drawing.savefig(path, dpi=style.DPI, metadata={"Software": None})
