"""For each kind of network and depth the learning rates that were run, and of each seed the best one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depthlab.report.core.groups import LOST, Group
from depthlab.report.core.statistics import Difference, Sample, combine

RATE = "optimizer.lr"
FEWEST_RATES, FEWEST_DEPTHS = 3, 2


@dataclass(frozen=True)
class Depth:
    """One depth of one kind of network.

    Args:
        depth: weighted layers.
        groups: by rate, in ascending order.
        best: for each repetition log10 of its best rate, as a sample.
        at_edge: how many repetitions are best at the lowest or highest rate.
        learned: whether some rate leaves the error clearly below chance.
    """

    depth: int
    groups: Mapping[float, Group]
    best: Sample
    at_edge: int
    learned: bool


@dataclass(frozen=True)
class Family:
    """The depths of one kind of network under one recipe."""

    kind: str
    key: str
    depths: tuple[Depth, ...]

    @property
    def judged(self) -> list[Depth]:
        """The depths at which a best rate means something."""
        return [each for each in self.depths if each.learned]


def find_families(groups: Sequence[Group]) -> list[Family]:
    """The kinds of networks with three or more rates at two or more depths of one recipe."""
    parts: dict[tuple[Any, ...], dict[int, dict[float, Group]]] = {}
    for group in groups:
        rate = group.config.get(RATE)
        if group.depth and isinstance(rate, int | float) and rate > 0:
            apart = tuple(item for item in group.recipe_apart_from_depth if item[0] != RATE)
            parts.setdefault((group.kind, apart), {}).setdefault(group.depth, {})[float(rate)] = group
    families = []
    for (kind, _), depths in parts.items():
        members = [group for rates in depths.values() for group in rates.values()]
        primary = members[0].task.primary
        key = f"val/{primary}" if all(group.values(f"val/{primary}") for group in members) else f"train/{primary}"
        found = [_depth(depth, rates, key) for depth, rates in sorted(depths.items()) if len(rates) >= FEWEST_RATES]
        whole = tuple(each for each in found if each.best.values)
        if len(whole) >= FEWEST_DEPTHS:
            families.append(Family(kind, key, whole))
    return sorted(families, key=lambda family: family.kind != "plain")


def _depth(depth: int, rates: Mapping[float, Group], key: str) -> Depth:
    ordered = dict(sorted(rates.items()))
    metric = next(iter(ordered.values())).metric(key)
    errors = {
        rate: {rep: metric.shortfall(value) for rep, value in group.values(key).items()}
        for rate, group in ordered.items()
    }
    everywhere = set.intersection(*(set(values) for values in errors.values()))
    best = {}
    for repetition in sorted(everywhere):
        lowest = min(values[repetition] for values in errors.values())
        equal = [math.log10(rate) for rate, values in errors.items() if values[repetition] == lowest]
        best[repetition] = statistics.fmean(equal)
    ends = math.log10(min(errors)), math.log10(max(errors))
    step = (ends[1] - ends[0]) / (len(errors) - 1)
    means = [statistics.fmean(values.values()) for values in errors.values() if values]
    chance = None if metric.chance is None else metric.shortfall(metric.chance)
    learned = bool(means) and (chance is None or min(means) < LOST * chance)
    at_edge = sum(value in ends for value in best.values())
    return Depth(depth, ordered, Sample(best, floor=step / math.sqrt(12)), at_edge, learned)


def slope(depths: Sequence[Depth]) -> Difference:
    """Decades of the best rate a doubling of depth, over the means of the depths."""
    return combine([each.best for each in depths], slope_weights(depths))


def slope_weights(depths: Sequence[Depth]) -> list[float]:
    """The weight of each depth in the slope of a line over the logarithm of the depth."""
    places = [math.log2(each.depth) for each in depths]
    middle = statistics.fmean(places)
    scale = math.fsum((place - middle) ** 2 for place in places)
    return [(place - middle) / scale for place in places]
