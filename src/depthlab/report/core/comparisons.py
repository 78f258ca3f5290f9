"""Which networks are compared, and how the outcome is worded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from depthlab.report.core.groups import Group, Setting, differing_keys
from depthlab.report.core.runs import METRICS
from depthlab.report.core.statistics import LEVEL, Difference, contrast, holm, seeds_needed


@dataclass(frozen=True)
class Comparison:
    """The error of `first` minus that of `second`, and what Holm's correction over its family leaves of it.

    `seeds` is the number of seeds a side at which a true difference of `size` points would be seen.
    """

    first: Group
    second: Group
    metric: str
    difference: Difference
    p_holm: float | None
    size: float
    seeds: int | None

    @property
    def sign(self) -> int:
        """1 or -1 where the difference is significant after the correction, else 0."""
        if self.p_holm is None or self.p_holm >= 1 - LEVEL:
            return 0
        return 1 if self.difference.mean > 0 else -1


def compare(setting: Setting, metric: str, size: float) -> list[Comparison]:
    """Every comparison within a setting in one final error."""
    return compare_pairs(list(_pairs(setting)), metric, size)


def compare_pairs(pairs: Sequence[tuple[Group, Group]], metric: str, size: float) -> list[Comparison]:
    """One family of comparisons, first minus second; Holm's correction is over those that can be tested.

    Args:
        pairs: the groups to compare; pairs in which one has no finished run are left out.
        metric: the final error that is compared, such as test/err.
        size: the difference in points for which the number of seeds is given.
    """
    pairs = [(first, second) for first, second in pairs if first.errors(metric) and second.errors(metric)]
    differences = [contrast([a.errors(metric), b.errors(metric)], [1, -1]) for a, b in pairs]
    adjusted = iter(holm([difference.p for difference in differences if difference.p is not None]))
    family = [None if difference.p is None else next(adjusted) for difference in differences]
    return [
        Comparison(first, second, metric, difference, p, size, seeds_needed(difference, size))
        for (first, second), difference, p in zip(pairs, differences, family, strict=True)
    ]


def compare_recipes(groups: Sequence[Group], settings: Sequence[Setting], metric: str, size: float) -> list[Comparison]:
    """Recipes of one network that differ in a single key, such as the precision: each against the first of them.

    Groups of one setting are not compared again.
    """
    return compare_pairs(list(_recipes(groups, settings)), metric, size)


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
    return one.network == other.network and len(differing_keys([one.config, other.config])) == 1


def sentence(comparison: Comparison) -> str:
    """The comparison in words, with its interval."""
    difference = comparison.difference
    a, b = comparison.first.label, comparison.second.label
    verb = {"train/err": "trains", "test/err": "tests"}.get(comparison.metric, "is")
    points = f"{abs(difference.mean):.2f} points {'worse' if difference.mean > 0 else 'better'}"
    if difference.p is None:
        if difference.mean == 0:
            return f"{a} and {b} have the same {METRICS[comparison.metric]}, {why_no_interval(difference)}"
        return f"{a} {verb} {points} than {b}, {why_no_interval(difference)}"
    if comparison.sign:
        return f"{a} {verb} {points} than {b}, {interval(difference, comparison.sign)}, {_p(comparison)}"
    assert difference.low is not None
    assert difference.high is not None
    if difference.low > 0 or difference.high < 0:  # by itself, but not among all the comparisons that were made
        sign = 1 if difference.mean > 0 else -1
        return f"{a} {verb} {points} than {b}, {interval(difference, sign)}, but not significantly: {_p(comparison)}"
    if -comparison.size <= difference.low and difference.high <= comparison.size:
        return (
            f"{a} and {b} are equal within {comparison.size:g} points in {METRICS[comparison.metric]}: "
            f"{difference.mean:+.2f} points, {interval(difference)}"
        )
    return (
        f"{a} and {b}: no clear difference in {METRICS[comparison.metric]}, {difference.mean:+.2f} points, "
        f"{interval(difference)}, {_p(comparison)}"
    )


def interval(difference: Difference, sign: int = 1) -> str:
    """`95 % CI 3.9 to 4.9, n = 5 pairs`; for sign -1 the interval of the difference turned round."""
    assert difference.low is not None
    assert difference.high is not None
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"95 % CI {low:.2f} to {high:.2f}, {count(difference)}"


def count(difference: Difference) -> str:
    """`n = 5 pairs`, or `n = 3 and 4` for runs that do not pair."""
    numbers = " and ".join(str(n) for n in difference.n)
    return f"n = {numbers} pairs" if difference.paired else f"n = {numbers}"


def why_no_interval(difference: Difference) -> str:
    """Why a difference has no interval."""
    if set(difference.n) == {1}:
        return "one run each, no interval"
    if min(difference.n) == 1:
        return f"one run on a side, no interval ({count(difference)})"
    return f"the same in every repetition, so no interval ({count(difference)})"


def _pairs(setting: Setting) -> Iterator[tuple[Group, Group]]:
    """Kind against kind at each depth; within a kind successive depths, and the deepest against the shallowest.

    Of the groups that have finished runs: in a sweep under way the ends are those of the depths that are there.
    """
    kinds = {
        kind: {group.depth: group for group in groups if group.finished} for kind, groups in setting.kinds().items()
    }
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


def _p(comparison: Comparison) -> str:
    p = comparison.p_holm
    return "Holm p < 0.001" if p is not None and p < 0.001 else f"Holm p = {p:.3f}"
