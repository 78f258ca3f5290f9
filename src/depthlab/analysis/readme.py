"""The parts of the README that hold numbers, made from the files in results/ and from published.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from depthlab.analysis.comparisons import compare_recipes, sentence
from depthlab.analysis.document import duration
from depthlab.analysis.groups import Group, find_settings, group_runs
from depthlab.analysis.published import FILE as PUBLISHED
from depthlab.analysis.runs import collect
from depthlab.analysis.tables import Table, mean_and_deviation, show
from depthlab.errors import InputError

SOURCES = ("paper", "reproductions")
EQUAL_WITHIN = 0.5  # points
DEPTHS = (20, 32, 44, 56, 110)
BLOCK = re.compile(r"(<!-- made: (\w+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHOWN_ERRORS = {"train/err": "training", "test/err": "test"}
# What a benchmark's table shows of each side, in this order, where it was measured.
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


def fill(text: str, results: Path) -> str:
    """`text` with every block `<!-- made: KIND NAME --> ... <!-- end -->` made anew.

    Kinds: `published NAME` (the paper's table with our runs of results/NAME), `depths NAME` (errors by depth),
    `recipes NAME` (errors by recipe), `speed MODE` (results/benchmarks/MODE.json).

    Raises:
        InputError: a block of no known kind.
    """

    def made(match: re.Match[str]) -> str:
        begin, kind, name, end = match.groups()
        if kind not in KINDS:
            raise InputError(f"<!-- made: {kind} {name} -->: no such kind of block. Valid: {', '.join(KINDS)}.")
        return f"{begin}{KINDS[kind](results, name)}\n{end}"

    return BLOCK.sub(made, text)


def published_block(results: Path, name: str) -> str:
    """Published test errors by depth, and ours below them; "-" for what nobody ran here."""
    ours = _groups(results / name)
    rows = [
        (f"{_kind(entry)}, {entry['source']}", *(_published(entry, depth) for depth in DEPTHS))
        for entry in yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["sources"]
        if entry["metric"] == "test/err" and entry["source"] in SOURCES
    ]
    for kind in ("residual", "plain"):
        rows.append((f"**{kind}, here**", *_errors_by_depth(ours, kind, "test/err", DEPTHS)))
    return _markdown(("test error, %", *map(str, DEPTHS)), rows) + _origin(results / name, ours)


def depths_block(results: Path, name: str) -> str:
    """Training and test error of each kind of network by depth."""
    groups = _groups(results / name)
    if not groups:
        return "Not run here yet: -\n"
    depths = sorted({group.depth for group in groups})
    kinds = sorted({group.kind for group in groups}, key=lambda kind: (kind == "plain", kind))
    rows = [
        (f"{kind}, {word}", *_errors_by_depth(groups, kind, metric, depths))
        for kind in kinds
        for metric, word in SHOWN_ERRORS.items()
    ]
    return _markdown(("error, %", *map(str, depths)), rows) + _origin(results / name, groups)


def recipes_block(results: Path, name: str) -> str:
    """Training and test error of each network and recipe, and what the difference in test error says."""
    groups = _groups(results / name)
    if not groups:
        return "Not run here yet: -\n"
    rows = [
        (group.label, str(len(group.finished)), *(_cell(group, metric) for metric in SHOWN_ERRORS)) for group in groups
    ]
    titles = [f"{word} error, %" for word in SHOWN_ERRORS.values()]
    said = [f"- {sentence(c)}.\n" for c in compare_recipes(groups, find_settings(groups), "test/err", EQUAL_WITHIN)]
    return "".join([_markdown(("network", "n", *titles), rows), "\n", *said, _origin(results / name, groups)])


def speed_block(results: Path, name: str) -> str:
    """Medians and ratios of one mode of scripts/benchmark.py."""
    path = results / "benchmarks" / f"{name}.json"
    if not path.exists():
        return "Not measured here yet: -\n"
    tree = json.loads(path.read_text(encoding="utf-8"))
    parts = [_comparison(comparison) for comparison in tree["comparisons"]]
    return "\n".join(parts) + _machine(tree, path.relative_to(results.parent))


KINDS: dict[str, Callable[[Path, str], str]] = {
    "published": published_block,
    "depths": depths_block,
    "recipes": recipes_block,
    "speed": speed_block,
}


def _groups(folder: Path) -> list[Group]:
    return group_runs(collect([folder]).runs) if folder.is_dir() else []


def _errors_by_depth(groups: Sequence[Group], kind: str, metric: str, depths: Iterable[int]) -> list[str]:
    by_depth = {group.depth: group for group in groups if group.kind == kind}
    return [_cell(by_depth[depth], metric) if depth in by_depth else "-" for depth in depths]


def _cell(group: Group, metric: str) -> str:
    return mean_and_deviation(group.summary(metric)) or "-"


def _kind(entry: dict[str, Any]) -> str:
    return "residual" if entry["residual"] else "plain"


def _published(entry: dict[str, Any], depth: int) -> str:
    number = entry["errors"].get(depth)
    return f"{number['value']:.2f}" if number else "-"


def _origin(folder: Path, groups: Sequence[Group]) -> str:
    """How many runs stand behind a table, on what they ran, how long they took, and where they lie."""
    runs = [run for group in groups for run in group.finished]
    if not runs:
        return '\nA cell that nobody has run here is "-".\n'
    counts = sorted({len(group.finished) for group in groups})
    number = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    devices = ", ".join(sorted({str(run.record["device"]) for run in runs}))
    steps = ", ".join(f"{steps:,}" for steps in sorted({int(run.record["steps"]) for run in runs}))
    longest = duration(max(float(run.record["wall_seconds"]) for run in runs))
    link = f"[records and page]({folder.parent.name}/{folder.name}/README.md)"
    return (
        f"\nMean ± standard deviation over seeds, {number}; {steps} steps; {devices}; "
        f"the longest run took {longest}. {link}.\n"
    )


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
    return _markdown((*header, *(["ratio (quartiles)"] if with_ratio else [])), rows)


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


def _machine(tree: dict[str, Any], path: Path) -> str:
    machine, versions = tree["machine"], tree["versions"]
    device = ", ".join(machine["gpus"]) or f"{machine['cpu']}, {machine['cpu_cores']} cores"
    used = ", ".join(f"{package} {versions[package]}" for package in ("torch", "lightning") if package in versions)
    return f"\nMedians. {device}; {used}; `{tree['command']}`; every measurement in [{path.name}]({path.as_posix()}).\n"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return Table("", "", tuple(header), tuple(tuple(row) for row in rows)).markdown()
