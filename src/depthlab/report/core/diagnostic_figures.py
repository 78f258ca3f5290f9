"""The figures that need what a run recorded of its inside: responses, gradients, predictions, mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from depthlab.config.identity import name_repetition
from depthlab.report.core import style
from depthlab.report.core.diagnostics import (
    Array,
    Members,
    class_errors,
    confusion,
    mean_over_runs,
    read_members,
    read_twins,
)
from depthlab.report.core.figures import Figure
from depthlab.report.core.groups import Setting

NUM_MISTAKES = 8
# Beyond this many classes the numbers in a matrix's cells would not be legible.
MOST_CELLS = 12
# Beyond this many, names would overlap: matrices are numbered, and the bars show the classes with the most errors.
MOST_NAMED = 25
EVERY_NUMBER = 10


def layer_responses(setting: Setting) -> Figure:
    """The paper's Figure 7: the deviation of each 3x3 layer's output, in order and sorted."""
    name, title, problems = "responses", "Layer responses", list[str]()
    members = read_members([g for groups in setting.kinds().values() for g in groups], "responses", problems)
    if not members:
        return _absent(name, title, "responses", problems)
    depths = [member.group.depth for member in members]
    drawing, axes = style.new_figure(1, 2, 8, 3.4, sharey=True)
    for member in members:
        std = mean_over_runs(member, "std")
        look = {
            "color": style.colour(member.group.depth, depths),
            "linestyle": style.dashes(member.group.residual),
            "marker": style.marker(member.group.depth, depths),
            "markersize": 3.5,
            "markevery": 0.15,
            "label": member.group.label,
            "linewidth": 1.2,
        }
        index = np.arange(1, len(std) + 1)
        axes[0][0].plot(index, std, **look)
        axes[0][1].plot(index, np.sort(std)[::-1], **look)
    axes[0][0].set(xlabel="layer, in order", ylabel="standard deviation")
    axes[0][1].set(xlabel="layer, sorted by size")
    axes[0][0].set_ylim(bottom=0)
    for axis in axes[0]:
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0][1].legend()
    caption = (
        "Standard deviation of the output of each 3x3 layer, after normalisation and before the nonlinearity or "
        "addition, with the last weights; means over runs. Plain networks are dashed."
    )
    return Figure(name, title, caption + _not_read(problems), drawing)


def confusion_matrices(setting: Setting) -> Figure:
    """The confusion matrices of a plain network and its twin, and the error of each class."""
    name, title, problems = "confusion", "Confusion of twins", list[str]()
    twins = read_twins(setting, "predictions", problems)
    if twins is None:
        return _absent(name, title, "predictions of a plain network and its residual twin", problems)
    classes = _classes(setting, twins)
    counts = [confusion(twin, len(classes)) for twin in twins]
    drawing, axes = style.new_figure(1, 3, 11, 4.2, width_ratios=[1, 1, 0.8])
    shares = [100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1) for matrix in counts]
    highest = max(1.0, *(float((share - np.diag(np.diag(share))).max()) for share in shares))
    for axis, twin, share in zip(axes[0], twins, shares, strict=False):
        _draw_matrix(axis, share, highest, classes, twin.group.label)
    _draw_class_errors(axes[0][2], twins, classes)
    caption = (
        "Percent of each class's test images by predicted class, over all runs; wrong cells are shaded. "
        "Right: error of each class, a point a run, a bar at the mean."
    )
    if len(classes) > MOST_NAMED:
        caption += " Classes are numbered in the order of the record's data.classes."
    return Figure(name, title, caption + _not_read(problems), drawing)


def gradient_norms(setting: Setting) -> Figure:
    """The gradient's norm per layer at initialisation and through training, plain against residual."""
    name, title, problems = "gradients", "Gradient norms", list[str]()
    twins = read_twins(setting, "gradients", problems)
    if twins is None:
        return _absent(name, title, "gradient norms of a plain network and its residual twin", problems)
    norms = [np.maximum(mean_over_runs(twin, "norm"), 1e-12) for twin in twins]
    drawing, axes = style.new_figure(1, 3, 11, 3.6, width_ratios=[1, 1, 1.15])
    for twin, norm, colour in zip(twins, norms, style.COLOURS[1::-1], strict=True):
        residual = twin.group.residual
        look = {"color": colour, "linestyle": style.dashes(residual), "label": twin.group.label}
        axes[0][0].plot(np.arange(1, norm.shape[1] + 1), norm[0], **look)
    axes[0][0].set(title="at initialisation", xlabel="layer, in order", ylabel="L2 norm of the gradient", yscale="log")
    axes[0][0].legend()
    _draw_histories(drawing, axes[0][1:], twins, norms)
    caption = (
        "L2 norm of the loss's gradient for each layer's weights; means over runs. Left: before the first step. "
        "Middle and right: through training, on one logarithmic scale."
    )
    return Figure(name, title, caption + _not_read(problems), drawing)


def mistakes(setting: Setting) -> Figure:
    """The test images that a plain network and its twin misclassify with the greatest confidence."""
    name, title, problems = "mistakes", "Most confident mistakes", list[str]()
    twins = read_twins(setting, "mistakes", problems)
    if twins is None:
        return _absent(name, title, "misclassified images of a plain network and its residual twin", problems)
    classes = _classes(setting, twins)
    drawing, axes = style.new_figure(2, NUM_MISTAKES, 9, 3.4)
    for row, twin in zip(axes, twins, strict=True):
        _draw_mistakes(row, twin.arrays[0], classes)
        row[0].set_ylabel(twin.group.label)
    runs = " and ".join(f"{twin.group.label} {_first(twin)}" for twin in twins)
    caption = f"Test images that were misclassified with the greatest confidence ({runs}): label, then prediction."
    return Figure(name, title, caption + _not_read(problems), drawing)


def _first(members: Members) -> str:
    run = members.group.finished[0]
    return name_repetition(run.seed, run.fold)


def _classes(setting: Setting, twins: Sequence[Members]) -> list[str]:
    """The names of the classes; numbers for those that the arrays have and the record does not name."""
    names = setting.groups[0].runs[0].record["data"].get("classes")
    known = [str(name) for name in names] if isinstance(names, list) else []
    indices = [arrays[key] for twin in twins for arrays in twin.arrays for key in ("label", "predicted")]
    highest = max((int(array.max()) for array in indices if array.size), default=0)
    return known + [str(number) for number in range(len(known), highest + 1)]


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


def _draw_class_errors(axis: Any, twins: tuple[Members, Members], classes: Sequence[str]) -> None:
    errors = [
        np.array([class_errors(confusion(Members(twin.group, (arrays,)), len(classes))) for arrays in twin.arrays])
        for twin in twins
    ]
    chosen = _most_errors(errors, len(classes))
    for twin, values, colour, offset in zip(twins, errors, style.COLOURS[1::-1], (-0.17, 0.17), strict=True):
        runs = values[:, chosen]
        rows = np.arange(len(chosen)) + offset
        hatch = None if twin.group.residual else "////"
        face = colour if twin.group.residual else "white"
        axis.barh(rows, np.mean(runs, axis=0), 0.32, color=face, edgecolor=colour, hatch=hatch, label=twin.group.label)
        for run in runs:
            axis.plot(run, rows, "k.", markersize=2)
    axis.set_yticks(range(len(chosen)), [classes[idx] for idx in chosen], fontsize=7)
    part = "" if len(chosen) == len(classes) else f": the {len(chosen)} worst of {len(classes)}"
    axis.set(xlabel="test error of the class (%)", title=f"error by class{part}")
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=2)


def _most_errors(errors: Sequence[Array], num_classes: int) -> Array:
    """The classes to show: all, or those with the highest errors over both networks."""
    if num_classes <= MOST_NAMED:
        return np.arange(num_classes)
    means = np.mean([np.mean(values, axis=0) for values in errors], axis=0)
    worst: Array = np.argsort(-np.nan_to_num(means), kind="stable")[:MOST_NAMED]
    return worst


def _draw_histories(drawing: Any, axes: Sequence[Any], twins: tuple[Members, Members], norms: Sequence[Array]) -> None:
    from matplotlib.colors import LogNorm

    scale = LogNorm(min(norm.min() for norm in norms), max(norm.max() for norm in norms))
    for axis, twin, norm in zip(axes, twins, norms, strict=True):
        layers, steps = np.arange(1, norm.shape[1] + 1), twin.arrays[0]["step"]
        image = axis.pcolormesh(steps, layers, norm.T, norm=scale, cmap="viridis", shading="nearest", rasterized=True)
        axis.set(title=twin.group.label, xlabel="iterations", ylabel="layer, in order")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.get_major_locator().set_params(nbins=4)
        axis.set_xlim(steps[0], max(steps[-1], steps[0] + 1))  # the outer cells would reach beyond the run
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.grid(False)
    drawing.colorbar(image, ax=list(axes), label="L2 norm of the gradient")


def _draw_mistakes(row: Sequence[Any], arrays: dict[str, Array], classes: Sequence[str]) -> None:
    for i, axis in enumerate(row):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        if i >= len(arrays["image"]):
            axis.set_frame_on(False)
            continue
        image = arrays["image"][i]
        axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", interpolation="nearest")
        label, predicted = classes[arrays["label"][i]], classes[arrays["predicted"][i]]
        axis.set_title(f"{label}\n→ {predicted}\n{100 * arrays['confidence'][i]:.0f} %", fontsize=7)


def _absent(name: str, title: str, what: str, problems: Sequence[str]) -> Figure:
    reason = f"no finished runs with {what}" if not problems else _shorten(problems)
    return Figure(name, title, reason, None)


def _not_read(problems: Sequence[str]) -> str:
    return f" Not in it: {_shorten(problems)}." if problems else ""


def _shorten(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


DIAGNOSTIC: tuple[Callable[[Setting], Figure], ...] = (
    layer_responses,
    confusion_matrices,
    gradient_norms,
    mistakes,
)
