"""The output of a benchmark: a table of medians and ratios, and a JSON file with every measurement."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from depthlab.config.hardware import Hardware
from depthlab.records.environment import git_state, versions
from depthlab_benchmarks.measure import Comparison

HEADINGS = {
    "images_per_second": "img/s",
    "ms_per_step": "ms a step",
    "ms_outside_network": "ms outside the network",
    "percent_outside_network": "% outside",
    "overhead_ms": "overhead ms",
    "overhead_percent": "overhead %",
    "us_per_batch": "µs a batch",
    "first_step_seconds": "s to first step",
    "peak_memory_mib": "peak MiB",
    "gpu_mib": "peak GPU MiB",
    "runs_per_hour": "runs an hour",
    "seconds": "s",
    "images_per_second_with_start": "img/s with start",
}
NOT_SHOWN = ("loss",)


def as_table(comparison: Comparison) -> Table:
    """Medians by side and quantity; the ratio to the reference with its quartiles; the settings of each side."""
    found = dict.fromkeys(name for quantities in comparison.sides.values() for name in quantities)
    quantities = [name for name in found if name not in NOT_SHOWN]
    table = Table(title=comparison.title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in [*(HEADINGS.get(name, name) for name in quantities), "n", *["ratio"] * bool(comparison.headline)]:
        table.add_column(name, justify="right")
    for side in comparison.sides:
        summary = comparison.summary(side)
        cells = [_number(summary[name]["median"]) if name in summary else "-" for name in quantities]
        ratio = [_ratio(summary)] if comparison.headline else []
        table.add_row(side, *cells, str(_count(comparison, side)), *ratio)
    table.caption, table.caption_justify = "\n".join(_side_lines(comparison)), "left"
    return table


def _side_lines(comparison: Comparison) -> Iterator[str]:
    """What each side is, with what it was measured: precision, TF32, memory format, optimiser."""
    for side in comparison.sides:
        words = [comparison.settings.get(side), comparison.notes.get(side)]
        if any(words):
            yield f"{side}: {'; '.join(word for word in words if word)}"


def _count(comparison: Comparison, side: str) -> int:
    """Measurements of the headline quantity, or of the first."""
    quantities = comparison.sides[side]
    return len(quantities[comparison.headline or next(iter(quantities))])


def _ratio(summary: dict[str, Any]) -> str:
    if "ratio" not in summary:
        return ""
    low, high = summary["ratio"]["quartiles"]
    return f"{summary['ratio']['median']:.3g} ({low:.3g} to {high:.3g})"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def as_tree(
    mode: str, command: str, options: dict[str, Any], hardware: Hardware, comparisons: Sequence[Comparison]
) -> dict[str, Any]:
    """Everything that a claim needs, as plain data."""
    return {
        "mode": mode,
        "command": command,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": asdict(hardware),
        "versions": versions(),
        "git": git_state(),
        "options": options,
        "comparisons": [_tree(comparison) for comparison in comparisons],
    }


def _tree(comparison: Comparison) -> dict[str, Any]:
    return {
        "title": comparison.title,
        "headline": comparison.headline,
        "reference": comparison.reference,
        "sides": {
            side: {
                "note": comparison.notes.get(side, ""),
                "settings": comparison.settings.get(side, ""),
                "n": _count(comparison, side),
                "summary": comparison.summary(side),
                "measurements": measurements,
                "ratios": comparison.ratios(side),
            }
            for side, measurements in comparison.sides.items()
        },
    }


def write_json(tree: dict[str, Any], path: Path) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
