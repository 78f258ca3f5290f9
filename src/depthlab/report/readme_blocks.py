"""The parts of the README that hold numbers, made from the files in results/ and from published.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from depthlab.errors import InputError
from depthlab.report.core.collection import collect
from depthlab.report.core.comparisons import compare_recipes, sentence
from depthlab.report.core.groups import (
    FOLLOWS_DEPTH,
    NETWORK,
    Group,
    describe,
    differing_keys,
    find_settings,
    group_runs,
)
from depthlab.report.core.margin import declared_margin
from depthlab.report.core.overview import duration
from depthlab.report.core.side_by_side import Sweep
from depthlab.report.core.speed_tables import draw_losses, losses_block, speed_block
from depthlab.report.core.summary_tables import cell_text, mean_and_deviation
from depthlab.report.core.table import markdown_table
from depthlab.report.depth_study.published import Number, Verdict, judge_published, not_comparable, read_published
from depthlab.report.depth_study.study import claims_sections

DEPTHS = (20, 32, 44, 56, 110)
BLOCK = re.compile(r"(<!-- made: (\w+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_RUN = "Not run here yet: -\n"
WORDS = {"train": "training", "val": "validation", "test": "test"}


def fill(text: str, results: Path) -> str:
    """`text` with every block `<!-- made: KIND NAME --> ... <!-- end -->` made anew.

    Kinds: `published NAME` (published errors with our runs of results/NAME), `findings NAME` (the claims of the depth
    study), `depths NAME` (errors by depth), `recipes NAME` (errors by recipe), `speed MODE` and `losses NAME` (of
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
    """Published test errors by depth, ours below them ("-" for what nobody ran here), and what the intervals say."""
    ours = _groups(results / name)
    verdicts = [verdict for verdict in judge_published(ours) if verdict.number.metric == "test/err"]
    published: dict[tuple[str, str], dict[int, str]] = {}
    for number in read_published().numbers:
        if number.metric == "test/err":
            published.setdefault((_kind(number), number.name), {})[number.depth] = number.text
    rows = [
        (f"{kind}, {source}", *(errors.get(depth, "-") for depth in DEPTHS))
        for (kind, source), errors in published.items()
    ]
    for kind in ("residual", "plain"):
        rows.append((f"**{kind}, here**", *_values_by_depth(ours, kind, "test/err", DEPTHS)))
    said = [f"- {_verdict_sentence(verdict)}\n" for verdict in verdicts if verdict.word]
    if reason := not_comparable(verdicts):
        said.append(f"- Ours are not comparable. {reason}\n")
    table = markdown_table(("test error, %", *map(str, DEPTHS)), rows)
    return "".join([table, "\n" if said else "", *said, _origin(results / name, ours)])


def findings_block(results: Path, name: str) -> str:
    """The claims of the depth study, as the report words them."""
    if not (results / name).is_dir():
        return NOT_RUN
    found = collect([results / name])
    groups = group_runs(found.runs)
    sections = claims_sections([Sweep(name, found, tuple(groups), tuple(find_settings(groups)))])
    lines = [f"- {finding.sentence}\n" for section in sections for finding in section.findings]
    return "".join(lines) or "No recipe has plain and residual networks of two depths.\n"


def depths_block(results: Path, name: str) -> str:
    """Final errors of each kind of network by depth; with folds, the folds' own validation errors too."""
    groups = _groups(results / name)
    if not groups:
        return NOT_RUN
    depths = sorted({group.depth for group in groups})
    kinds = sorted({group.kind for group in groups}, key=lambda kind: (kind == "plain", kind))
    rows = [
        (f"{kind}, {recipe}{WORDS[key.split('/')[0]]}", *_values_by_depth(members, kind, key, depths))
        for kind in kinds
        for recipe, members in _recipes(groups)
        for key in _shown_keys(groups)
    ]
    return markdown_table(("error, %", *map(str, depths)), rows) + _origin(results / name, groups)


def recipes_block(results: Path, name: str) -> str:
    """Final errors of each network and recipe, and what the differences in test error are."""
    groups = _groups(results / name)
    if not groups:
        return NOT_RUN
    keys = _shown_keys(groups)
    rows = [
        (group.label, str(len(group.values(keys[0]))), *(cell_text(group, key) or "-" for key in keys))
        for group in groups
    ]
    task = groups[0].task
    titles = [task.heading(key).replace(" (", ", ").removesuffix(")") for key in keys]
    margin = declared_margin([str(run.record["name"]) for group in groups for run in group.runs])
    compared = compare_recipes(groups, find_settings(groups), f"test/{task.primary}")
    said = [f"- {sentence(comparison, margin)}.\n" for comparison in compared]
    table = markdown_table(("network", "n", *titles), rows)
    return "".join([table, "\n" if said else "", *said, _origin(results / name, groups)])


KINDS: dict[str, Callable[[Path, str], str]] = {
    "published": published_block,
    "findings": findings_block,
    "depths": depths_block,
    "recipes": recipes_block,
    "speed": speed_block,
    "losses": losses_block,
}


def _groups(folder: Path) -> list[Group]:
    return group_runs(collect([folder]).runs) if folder.is_dir() else []


def _shown_keys(groups: Sequence[Group]) -> list[str]:
    splits = ("train", "val", "test") if any(group.has_folds for group in groups) else ("train", "test")
    return [f"{split}/{groups[0].task.primary}" for split in splits]


def _recipes(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """The groups by recipe, each with what sets it apart, where a kind has a depth twice; else all of them as one."""
    if len({(group.kind, group.depth) for group in groups}) == len(groups):
        return [("", list(groups))]
    parts: dict[object, list[Group]] = {}
    for group in groups:
        parts.setdefault(group.recipe_apart_from_depth, []).append(group)
    keys = differing_keys([members[0].config for members in parts.values()], (*NETWORK, *FOLLOWS_DEPTH))
    return [(f"{describe(members[0].config, keys)}, ", members) for members in parts.values()]


def _verdict_sentence(verdict: Verdict) -> str:
    """`resnet20: reproduced. Ours 8.70 ± 0.10 (95 % CI 8.45 to 8.95), paper 8.75.`"""
    ours, number = verdict.ours, verdict.number
    interval = "" if ours.low is None or ours.high is None else f" (95 % CI {ours.low:.2f} to {ours.high:.2f})"
    text = f"{verdict.group.label}: {verdict.word}. Ours {mean_and_deviation(ours)}{interval}"
    return f"{text}, {number.name} {number.text}."


def _values_by_depth(groups: Sequence[Group], kind: str, key: str, depths: Iterable[int]) -> list[str]:
    members = [group for group in groups if group.kind == kind]
    by_depth = {group.depth: group for group in members}
    if len(by_depth) < len(members):
        twice = next(group.label for group in members if by_depth[group.depth] is not group)
        raise InputError(f"{twice} stands beside another recipe of its kind and depth. Use a block `recipes`.")
    return [(cell_text(by_depth[depth], key) or "-") if depth in by_depth else "-" for depth in depths]


def _kind(number: Number) -> str:
    return "residual" if number.residual else "plain"


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
    if len(runs) == 1:
        return f"\nOne run; {steps} steps; {devices}; it took {longest}. {link}.\n"
    made_of = "One run each" if counts == [1] else f"Mean ± standard deviation over {over}, {number}"
    return f"\n{made_of}; {steps} steps; {devices}; the longest run took {longest}. {link}.\n"
