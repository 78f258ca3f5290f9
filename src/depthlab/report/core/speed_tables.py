"""What scripts/benchmark.py wrote, for the README: tables of speed, and the losses of both sides."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from depthlab.report.core import style
from depthlab.report.core.table import markdown_table, show

FOLDER = "benchmarks"
SPANS = 4  # of a table of losses
# What a table shows of each side, in this order, where it was measured.
QUANTITIES = {
    "images_per_second": "img/s",
    "ms_per_step": "ms a step",
    "us_per_batch": "µs a batch",
    "percent_outside_network": "% outside the network",
    "overhead_ms": "overhead, ms",
    "overhead_percent": "overhead, %",
    "first_step_seconds": "s to the first step",
    "runs_per_hour": "runs an hour",
    "peak_memory_mib": "peak MiB",
    "gpu_mib": "peak GPU MiB",
}


def speed_block(results: Path, name: str) -> str:
    """Medians and ratios of one mode of scripts/benchmark.py."""
    path = results / FOLDER / f"{name}.json"
    if not path.exists():
        return "Not measured here yet: -\n"
    tree = _read(path)
    parts = [_comparison(comparison) for comparison in tree["comparisons"]]
    return "\n".join(parts) + f"\nMedians. {_origin(tree, path.relative_to(results.parent))}"


def losses_block(results: Path, name: str) -> str:
    """The training loss of each side of a comparison, as means over spans of the steps, and the figure's link."""
    path = results / FOLDER / f"{name}.json"
    if not path.exists():
        return "Not measured here yet: -\n"
    tree = _read(path)
    comparison, place = tree["comparisons"][0], path.relative_to(results.parent)
    steps, losses = _losses(tree)
    ends = [len(steps) * part // SPANS for part in range(SPANS + 1)]
    spans = list(pairwise(ends))
    half = tree["options"]["steps"] / 2
    header = [f"steps {steps[start] - half + 1:.0f} to {steps[end - 1] + half:.0f}" for start, end in spans]
    rows = [(side, *(f"{mean(values[start:end]):.3f}" for start, end in spans)) for side, values in losses.items()]
    picture = f"![{comparison['title']}: training loss of every side]({place.with_suffix('.png').as_posix()})\n"
    table = markdown_table((f"mean loss, {comparison['title']}", *header), rows)
    return f"{picture}\n{table}\n{_origin(tree, place)}"


def draw_losses(results: Path, name: str) -> None:
    """Write the figure that `losses_block` links, beside the file it is made from; nothing where there is no file."""
    path = results / FOLDER / f"{name}.json"
    if not path.exists():
        return
    tree = _read(path)
    steps, losses = _losses(tree)
    with style.look():
        drawing, axes = style.new_figure(1, 1, 6.4, 3.2)
        for idx, (side, values) in enumerate(losses.items()):
            look = {"color": style.COLOURS[(1, 0, *range(2, len(style.COLOURS)))[idx]], "marker": style.MARKERS[idx]}
            axes[0][0].plot(steps, values, "--" if idx == 0 else "-", markersize=3, linewidth=1.2, label=side, **look)
        axes[0][0].set(xlabel="steps", ylabel=f"training loss, mean of {tree['options']['steps']} steps")
        axes[0][0].legend()
    style.save(drawing, path.parent, name)


def _read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


def _losses(tree: dict[str, Any]) -> tuple[list[float], dict[str, list[float]]]:
    """The middle of each turn in steps from the start of training, and each side's mean loss of that turn."""
    options, sides = tree["options"], tree["comparisons"][0]["sides"]
    losses = {name: side["measurements"]["loss"] for name, side in sides.items()}
    turns = range(len(next(iter(losses.values()))))
    return [options["warmup_steps"] + options["steps"] * (turn + 0.5) for turn in turns], losses


def _comparison(comparison: dict[str, Any]) -> str:
    sides = comparison["sides"]
    found = [name for name in QUANTITIES if any(_median(side, name) is not None for side in sides.values())]
    if not found:  # parts of a start have names of their own
        found = list(next(iter(sides.values()))["measurements"])
    header = (comparison["title"], *(QUANTITIES.get(name, name) for name in found), "n")
    with_ratio = any("ratio" in side["summary"] for side in sides.values())
    rows = [
        (
            name,
            *(show(_rounded(_median(side, quantity))) for quantity in found),
            str(side["n"]),
            *([_ratio(side)] if with_ratio else []),
        )
        for name, side in sides.items()
    ]
    table = markdown_table((*header, *(["ratio (quartiles)"] if with_ratio else [])), rows)
    lines = [f"- {name}: {side['settings']}\n" for name, side in sides.items() if side.get("settings")]
    return "\n".join([table, "".join(lines)]) if lines else table  # files of before have no settings


def _median(side: dict[str, Any], quantity: str) -> float | None:
    value = side["summary"].get(quantity, {}).get("median")
    return None if value is None else float(value)


def _rounded(value: float | None) -> float | int | None:
    return value if value is None or abs(value) < 100 else round(value)


def _ratio(side: dict[str, Any]) -> str:
    ratio = side["summary"].get("ratio")
    if ratio is None:
        return "1"
    low, high = ratio["quartiles"]
    return f"{ratio['median']:.2f} ({low:.2f} to {high:.2f})"


def _origin(tree: dict[str, Any], path: Path) -> str:
    """The machine, the versions, the command, and where every measurement lies."""
    machine, versions = tree["machine"], tree["versions"]
    device = ", ".join(machine["gpus"]) or f"{machine['cpu']}, {machine['cpu_cores']} cores"
    used = ", ".join(f"{package} {versions[package]}" for package in ("torch", "lightning") if package in versions)
    return f"{device}; {used}; `{tree['command']}`; every measurement in [{path.name}]({path.as_posix()}).\n"
