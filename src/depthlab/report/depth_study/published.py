"""Compares our errors with published ones (published.yaml) where data, schedule and length are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from depthlab.errors import InputError
from depthlab.report.core.groups import Group
from depthlab.report.core.statistics import Summary
from depthlab.report.core.summary_tables import mean_and_deviation
from depthlab.report.core.table import Table

FILE = Path(__file__).with_name("published.yaml")
REPRODUCED, DIFFERS, IMPRECISE, NO_INTERVAL = "reproduced", "differs", "compatible, too imprecise", "no interval"
WITHIN = 0.5  # points


@dataclass(frozen=True)
class Number:
    """One published error in percent: its value, the runs behind it, how far it may be read wrong, and its source."""

    name: str
    source: str
    url: str
    metric: str
    residual: bool
    depth: int
    value: float
    sd: float | None
    runs: int
    approx: bool
    accuracy: float
    conditions: Mapping[str, Any]

    @property
    def text(self) -> str:
        """`6.61 ± 0.16`; with `≈` where the number was read off a figure."""
        return f"{'≈ ' if self.approx else ''}{self.value:.2f}{'' if self.sd is None else f' ± {self.sd:.2f}'}"


@dataclass(frozen=True)
class Verdict:
    """One published number beside ours; `unmet` lists what forbids the comparison, and `word` is empty then."""

    group: Group
    number: Number
    ours: Summary
    word: str
    unmet: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """The file's numbers and the keys that it knows."""

    numbers: tuple[Number, ...]
    paper_recipe: Mapping[str, Any]
    paper_details: Mapping[str, Any]
    free: tuple[str, ...]


def read_published(file: Path = FILE) -> Published:
    """The published numbers.

    Raises:
        InputError: a number has no source, or an entry lacks a key that it needs.
    """
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    numbers = []
    for entry in tree["entries"]:
        name = entry.get("name") or "an entry without a name"
        try:
            numbers += [_number(entry, int(depth), values) for depth, values in entry["errors"].items()]
        except KeyError as error:
            raise InputError(f"{file.name}: {name}: {error.args[0]!r} is missing. Add it to the entry.") from None
    return Published(tuple(numbers), tree["paper_recipe"], tree["paper_details"], tuple(tree["free"]))


def judge_published(groups: Sequence[Group], published: Published | None = None) -> list[Verdict]:
    """A verdict for every group and every published number of its depth, kind and metric."""
    known = published or read_published()
    return [verdict for group in groups for verdict in _verdicts(group, known)]


def published_table(verdicts: Sequence[Verdict]) -> Table:
    """One row a comparable number: ours, theirs and what the interval says."""
    rows = tuple(
        (
            verdict.group.label,
            verdict.group.task.title(verdict.number.metric),
            mean_and_deviation(verdict.ours),
            verdict.ours.low,
            verdict.ours.high,
            verdict.ours.n,
            verdict.number.text,
            verdict.number.runs,
            verdict.word,
            verdict.number.source,
        )
        for verdict in verdicts
        if verdict.word
    )
    ours = ("ours (%)", "95 % CI low", "95 % CI high", "n")
    header = ("network", "metric", *ours, "published (%)", "their n", "verdict", "source")
    caption = (
        f"Reproduced: our interval lies within {WITHIN:g} points of the published number. Differs: it excludes the "
        "number. ≈: read off a figure."
    )
    return Table("published", caption, header, rows)


def not_comparable(verdicts: Sequence[Verdict]) -> str:
    """One line where no published number is comparable; empty where one is, or where none is published."""
    if not verdicts or any(verdict.word for verdict in verdicts):
        return ""
    fewest = min(verdicts, key=lambda verdict: len(verdict.unmet))
    return f"No published number was made under these conditions: {_listed(fewest.unmet)}."


def differences_from_paper(groups: Sequence[Group]) -> list[str]:
    """What of the paper's recipe these runs do not follow, each with the networks it concerns where not all."""
    known = read_published()
    unmet: dict[str, list[str]] = {}
    for group in groups:
        recipe = known.paper_recipe
        lines = [*_unmet(group.config, {**recipe, **known.paper_details}), *_extra(group.config, recipe, known)]
        for line in lines:
            unmet.setdefault(line, []).append(group.label)
    return [line if len(labels) == len(groups) else f"{line} ({', '.join(labels)})" for line, labels in unmet.items()]


def word(number: Number, ours: Summary) -> str:
    """What our interval says to a published number."""
    if ours.low is None or ours.high is None:
        return NO_INTERVAL
    if number.value - WITHIN <= ours.low and ours.high <= number.value + WITHIN:
        return REPRODUCED
    if ours.low > number.value + number.accuracy or ours.high < number.value - number.accuracy:
        return DIFFERS
    return IMPRECISE


def _number(entry: Mapping[str, Any], depth: int, values: Mapping[str, Any]) -> Number:
    source = values.get("source") or entry.get("source")
    if not source:
        raise KeyError("source")
    approx = bool(values.get("approx", entry.get("approx", False)))
    return Number(
        entry["name"],
        str(source),
        str(values.get("url") or entry["url"]),
        entry["metric"],
        bool(entry["residual"]),
        depth,
        float(values["value"]),
        None if values.get("sd") is None else float(values["sd"]),
        int(values["runs"]),
        approx,
        float(entry["accuracy"]) if approx else 0.0,
        {**entry["conditions"], **values.get("conditions", {})},
    )


def _verdicts(group: Group, known: Published) -> Iterator[Verdict]:
    for number in known.numbers:
        ours = group.summary(number.metric)
        if number.residual != group.residual or number.depth != group.depth or ours is None:
            continue
        unmet = (*_unmet(group.config, number.conditions), *_extra(group.config, number.conditions, known))
        yield Verdict(group, number, ours, "" if unmet else word(number, ours), unmet)


def _unmet(config: Mapping[str, Any], conditions: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {'absent' if config.get(key) is None else config[key]}{'' if wanted is None else f', not {wanted}'}"
        for key, wanted in conditions.items()
        if config.get(key) != wanted
    ]


def _extra(config: Mapping[str, Any], conditions: Mapping[str, Any], known: Published) -> list[str]:
    """What is there, or on, although no condition speaks of it."""
    keys = {*conditions, *known.paper_recipe, *known.free}
    return [f"{key} is {value}" for key, value in config.items() if key not in keys and value is not None]


def _listed(differences: Sequence[str]) -> str:
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return "; ".join(differences[:3]) + more
