"""Sets our errors beside published ones (published.yaml) and says whether they agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from depthlab.report.core.groups import Group
from depthlab.report.core.statistics import Summary, half_width

FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Verdict:
    """One published number beside ours.

    `low` and `high` bound, with 95 %, where the published measurement would lie if it were a repetition of our
    runs; None where nothing can be said. `word` is reproduced, better, worse, undecided or not comparable.
    """

    group: Group
    source: str
    title: str
    metric: str
    published: float
    ours: Summary
    low: float | None
    high: float | None
    word: str
    reason: str


def judge_published(groups: Sequence[Group]) -> list[Verdict]:
    """A verdict for every finished group and every published number of its depth and kind."""
    table = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return [verdict for group in groups for verdict in _verdicts(group, table)]


def _verdicts(group: Group, table: Mapping[str, Any]) -> Iterator[Verdict]:
    for entry in table["sources"]:
        number = entry["errors"].get(group.depth)
        ours = group.summary(entry["metric"])
        if entry["residual"] != group.residual or number is None or ours is None:
            continue
        low, high = _expected(ours, number["runs"], entry["accuracy"])
        differences = [*_unmet(group.config, entry["conditions"]), *_extra(group.config, entry["conditions"], table)]
        word, reason = _word(number["value"], ours, low, high, table, entry.get("margin"))
        if differences:
            word, reason = "not comparable", _list_differences(differences)
        yield Verdict(
            group,
            entry["source"],
            entry["title"],
            entry["metric"],
            number["value"],
            ours,
            low,
            high,
            word,
            reason,
        )


def _expected(ours: Summary, runs: int | None, accuracy: float) -> tuple[float | None, float | None]:
    """The prediction interval for a mean of `runs` further runs, widened by what reading off a figure may cost."""
    if not ours.sd:
        return None, None
    spread = ours.sd * math.sqrt(1 / ours.n + (1 / runs if runs else 0))
    half = half_width(spread, ours.n - 1) + accuracy
    return max(0.0, ours.mean - half), min(100.0, ours.mean + half)


def _word(
    value: float,
    ours: Summary,
    low: float | None,
    high: float | None,
    table: Mapping[str, Any],
    margin: float | None,
) -> tuple[str, str]:
    if ours.n < table["fewest"]:
        return "undecided", "one run, no interval" if ours.n == 1 else f"{ours.n} runs are too few"
    if margin is not None:
        word = "reproduced" if abs(ours.mean - value) <= margin else "worse" if ours.mean > value else "better"
        place = "within" if word == "reproduced" else "more than"
        interval = "" if low is None or high is None else f" (95 % interval {low:.2f} to {high:.2f})"
        return word, f"the mean {ours.mean:.2f}{interval} lies {place} {margin:g} points from {value:g}"
    if low is None or high is None:
        return "undecided", "all runs are equal, no interval"
    interval = f"95 % interval {low:.2f} to {high:.2f}"
    if value > high:
        return "better", f"{interval} lies below {value:g}"
    if value < low:
        return "worse", f"{interval} lies above {value:g}"
    if (high - low) / 2 > table["widest"] * value:
        return "undecided", f"{interval} holds {value:g} but is too wide to decide"
    return "reproduced", f"{interval} holds {value:g}"


def _unmet(config: Mapping[str, Any], conditions: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {'absent' if config.get(key) is None else config[key]}{'' if wanted is None else f', not {wanted}'}"
        for key, wanted in conditions.items()
        if config.get(key) != wanted
    ]


def _extra(config: Mapping[str, Any], conditions: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    """What is there, or on, although no condition speaks of it."""
    known = {*conditions, *table["paper_recipe"], *table["free"]}
    return [f"{key} is {value}" for key, value in config.items() if key not in known and value is not None]


def _list_differences(differences: Sequence[str]) -> str:
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return "; ".join(differences[:3]) + more


def differences_from_paper(groups: Sequence[Group]) -> list[str]:
    """What of the paper's recipe these runs do not follow, each with the networks it concerns where not all."""
    table = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    unmet: dict[str, list[str]] = {}
    for group in groups:
        recipe = table["paper_recipe"]
        lines = [*_unmet(group.config, recipe | table["paper_details"]), *_extra(group.config, recipe, table)]
        for line in lines:
            unmet.setdefault(line, []).append(group.label)
    return [line if len(labels) == len(groups) else f"{line} ({', '.join(labels)})" for line, labels in unmet.items()]
