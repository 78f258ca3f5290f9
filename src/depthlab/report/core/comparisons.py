"""Which groups are compared, and the sentence that a comparison makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from depthlab.report.core.groups import Group, Setting, differing_keys
from depthlab.report.core.statistics import Difference, paired, share_pairs, smallest_shown, welch
from depthlab.report.core.task_description import Metric

VERBS = {"train": "trains", "val": "validates", "test": "tests"}


@dataclass(frozen=True)
class Comparison:
    """A final value of `first` minus that of `second`; `smallest` is the smallest difference these runs would show."""

    first: Group
    second: Group
    key: str
    difference: Difference
    smallest: float | None
    is_settled: bool = True

    @property
    def method(self) -> str:
        """How the interval was made, or why there is none."""
        if not self.is_settled:
            return "not all runs settled"
        if self.difference.interval is None:
            return why_no_interval(self.difference)
        return "paired by seed" if self.difference.paired else "Welch"


def compare(setting: Setting, key: str) -> list[Comparison]:
    """Every comparison of networks within a setting; not by seed, whose correlation across networks is about 0."""
    return [made for pair in _pairs(setting) for made in compare_pair(*pair, key, by_seed=False)]


def compare_recipes(groups: Sequence[Group], settings: Sequence[Setting], key: str) -> list[Comparison]:
    """Recipes of one network that differ in a single key, such as the precision: each against the first of them.

    They are paired by seed, because one network under two recipes shares most of what a seed decides. Groups of one
    setting are not compared again.
    """
    return [made for pair in _recipes(groups, settings) for made in compare_pair(*pair, key, by_seed=True)]


def compare_pair(first: Group, second: Group, key: str, by_seed: bool) -> list[Comparison]:
    """The comparison of two groups; nothing where one has no value, or where their tasks differ."""
    samples = first.sample(key), second.sample(key)
    if not all(sample.values for sample in samples) or first.metric(key) != second.metric(key):
        return []
    if first.num_settled(key) is not None or second.num_settled(key) is not None:
        counts = tuple(sample.n for sample in samples)
        means = Difference(samples[0].mean - samples[1].mean, counts, False)
        return [Comparison(first, second, key, means, None, is_settled=False)]
    difference = paired(*samples) if by_seed and share_pairs(*samples) else welch(*samples)
    return [Comparison(first, second, key, difference, smallest_shown(difference))]


def sentence(comparison: Comparison, margin: float | None = None) -> str:
    """The comparison in words, with its interval.

    Args:
        comparison: what is worded.
        margin: the difference up to which an experiment's file calls two recipes equal; without one, equality is
            never claimed.
    """
    difference = comparison.difference
    metric = comparison.first.metric(comparison.key)
    between = interval_text(difference, metric) if comparison.is_settled else comparison.method
    text = f"{worded(comparison)} ({between})"
    if margin is not None and difference.interval is not None:
        low, high = difference.interval
        said = "equal" if -margin <= low and high <= margin else "not shown to be equal"
        text += f": {said} within the margin of {margin:g} {metric.points}".rstrip()
    return text


def worded(comparison: Comparison) -> str:
    """`plain56 trains 5.20 points worse than plain20`, without the interval."""
    key, difference = comparison.key, comparison.difference
    first, second = comparison.first.label, comparison.second.label
    verb = VERBS.get(key.split("/")[0], "is")
    if difference.mean == 0:
        return f"{first} {verb} as well as {second}"
    metric = comparison.first.metric(key)
    worse = (difference.mean > 0) == (metric.better == "lower")
    amount = f"{quantity(abs(difference.mean), metric)} {metric.points}".rstrip()
    return f"{first} {verb} {amount} {'worse' if worse else 'better'} than {second}"


def interval_text(difference: Difference, metric: Metric) -> str:
    """`95 % CI 3.90 to 4.90, n = 5 pairs`, or why there is none. The interval's sign is that of the wording."""
    if difference.interval is None:
        return f"{why_no_interval(difference)}, no interval"
    sign = -1 if difference.mean < 0 else 1
    low, high = sorted(sign * bound for bound in difference.interval)
    return f"95 % CI {quantity(low, metric)} to {quantity(high, metric)}, {count(difference)}"


def count(difference: Difference) -> str:
    """`n = 5 pairs`, or `n = 3 and 4` for runs that do not pair."""
    numbers = list(dict.fromkeys(str(n) for n in difference.n))
    return f"n = {' and '.join(numbers)}{' pairs' if difference.paired else ''}"


def why_no_interval(difference: Difference) -> str:
    """Why a difference has no interval."""
    if min(difference.n) == 1:
        return "one run" if set(difference.n) == {1} else f"one run on a side ({count(difference)})"
    return "equal in every run"


def number(value: float) -> str:
    """A value in points: two decimals, one from 10 on, none for whole bounds such as 100."""
    if abs(value) >= 10:
        return f"{value:.1f}".removesuffix(".0") if abs(value) >= 100 else f"{value:.1f}"
    return f"{value + 0.0:.2f}" if abs(value) >= 0.005 or value == 0 else f"{value:.1g}"


def quantity(value: float, metric: Metric) -> str:
    """A value as readers want it: two decimals for a percentage, three significant digits for anything else."""
    return number(value) if metric.unit == "%" else f"{value:.3g}"


def _pairs(setting: Setting) -> Iterator[tuple[Group, Group]]:
    """Kind against kind at each depth; within a kind successive depths, and the deepest against the shallowest."""
    kinds = {kind: {group.depth: group for group in groups} for kind, groups in setting.kinds().items()}
    yield from _across(kinds)
    for groups in kinds.values():
        depths = sorted(groups)
        ends = [(depths[0], depths[-1])] if len(depths) > 2 else []
        for shallow, deep in [*pairwise(depths), *ends]:
            yield groups[deep], groups[shallow]


def _across(kinds: Mapping[str, Mapping[int, Group]]) -> Iterator[tuple[Group, Group]]:
    names = list(kinds)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            for depth in sorted(kinds[one].keys() & kinds[other].keys()):
                yield kinds[one][depth], kinds[other][depth]


def _recipes(groups: Sequence[Group], settings: Sequence[Setting]) -> Iterator[tuple[Group, Group]]:
    together = [setting.groups for setting in settings]
    by_label = sorted(groups, key=lambda group: group.label)
    for idx, second in enumerate(by_label):
        if any(_is_other_recipe(second, earlier) for earlier in by_label[:idx]):
            continue  # compared with an earlier one, which stands for both
        for first in by_label[idx + 1 :]:
            if _is_other_recipe(first, second) and not any(first in part and second in part for part in together):
                yield first, second


def _is_other_recipe(one: Group, other: Group) -> bool:
    """Whether two groups are one network under recipes that differ in a single key; a different hash is no key."""
    keys = set(differing_keys([one.config, other.config]))
    return one.network == other.network and len(keys) == 1
