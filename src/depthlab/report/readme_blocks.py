"""The parts of the README that hold numbers, made from the files in results/ and from published.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from depthlab.errors import InputError
from depthlab.report.core.comparisons import compare_recipes, sentence
from depthlab.report.core.document import duration
from depthlab.report.core.groups import Group, find_settings, group_runs
from depthlab.report.core.report_tables import markdown_table, mean_and_deviation
from depthlab.report.core.runs import collect
from depthlab.report.core.speed_tables import draw_losses, losses_block, speed_block
from depthlab.report.depth_study.published import FILE as PUBLISHED

SOURCES = ("paper", "reproductions")
EQUAL_WITHIN = 0.5  # points
DEPTHS = (20, 32, 44, 56, 110)
BLOCK = re.compile(r"(<!-- made: (\w+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHOWN_ERRORS = {"train/err": "training", "test/err": "test"}


def fill(text: str, results: Path) -> str:
    """`text` with every block `<!-- made: KIND NAME --> ... <!-- end -->` made anew.

    Kinds: `published NAME` (the paper's table with our runs of results/NAME), `depths NAME` (errors by depth),
    `recipes NAME` (errors by recipe), `speed MODE` and `losses NAME` (of
    results/benchmarks).

    Raises:
        InputError: a block of no known kind.
    """

    def made(match: re.Match[str]) -> str:
        begin, kind, name, end = match.groups()
        if kind not in KINDS:
            raise InputError(f"<!-- made: {kind} {name} -->: no such kind of block. Valid: {', '.join(KINDS)}.")
        return f"{begin}{KINDS[kind](results, name)}\n{end}"

    return BLOCK.sub(made, text)


def draw(text: str, results: Path) -> None:
    """Make the figures anew that the blocks of `text` link to and that no report makes."""
    for _, kind, name, _ in BLOCK.findall(text):
        if kind == "losses":
            draw_losses(results, name)


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
    return markdown_table(("test error, %", *map(str, DEPTHS)), rows) + _origin(results / name, ours)


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
    return markdown_table(("error, %", *map(str, depths)), rows) + _origin(results / name, groups)


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
    return "".join([markdown_table(("network", "n", *titles), rows), "\n", *said, _origin(results / name, groups)])


KINDS: dict[str, Callable[[Path, str], str]] = {
    "published": published_block,
    "depths": depths_block,
    "recipes": recipes_block,
    "speed": speed_block,
    "losses": losses_block,
}


def _groups(folder: Path) -> list[Group]:
    return group_runs(collect([folder]).runs) if folder.is_dir() else []


def _errors_by_depth(groups: Sequence[Group], kind: str, metric: str, depths: Iterable[int]) -> list[str]:
    members = [group for group in groups if group.kind == kind]
    by_depth = {group.depth: group for group in members}
    if len(by_depth) < len(members):
        twice = next(group.label for group in members if by_depth[group.depth] is not group)
        raise InputError(f"{twice} stands beside another recipe of its kind and depth. Use a block `recipes`.")
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
    over = " or ".join(sorted({group.repetitions() for group in groups}))
    devices = ", ".join(sorted({str(run.record["device"]) for run in runs}))
    steps = ", ".join(f"{steps:,}" for steps in sorted({int(run.record["steps"]) for run in runs}))
    longest = duration(max(float(run.record["wall_seconds"]) for run in runs))
    link = f"[records and page]({folder.parent.name}/{folder.name}/README.md)"
    return (
        f"\nMean ± standard deviation over {over}, {number}; {steps} steps; {devices}; "
        f"the longest run took {longest}. {link}.\n"
    )
