"""Means with their intervals, differences between networks, and how many seeds a difference needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Summary:
    """Repetitions of one measurement.

    `sd` is the sample's standard deviation, None for one run. `low` and `high` bound the mean (t, 95 %); None
    for one run and where all runs are equal, because then nothing is known about the spread.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Difference:
    """A difference of means with its 95 % interval and two-sided p; both None where no test is possible.

    `n` is the number of pairs, or the number of runs on each side; `sd` the deviation that n refers to: of the
    paired differences, or the root mean square of the groups' own.
    """

    mean: float
    n: tuple[int, ...]
    paired: bool
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def summarize(values: Sequence[float]) -> Summary:
    """The summary of at least one finite value.

    Raises:
        ValueError: there is no value, or one is not finite; whoever calls leaves those out by name.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"values must be finite and at least one, got {list(values)}")
    n, mean, sd = len(values), statistics.fmean(values), _deviation(values)
    half = half_width(sd / math.sqrt(n), n - 1) if sd else None
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Summary(n, mean, sd, low, high, min(values), max(values))


def half_width(standard_error: float, degrees: float) -> float:
    """Half the width of the two-sided 95 % t interval."""
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, degrees) * standard_error)


def contrast(samples: Sequence[Mapping[Any, float]], signs: Sequence[int]) -> Difference:
    """The sum of sign times mean over groups of runs, each a map from repetition (such as a seed) to value.

    Paired by repetition where the groups share at least two; those that not all have are then not used.
    Otherwise by Welch's standard error with Satterthwaite's degrees of freedom, which for two groups and signs
    (1, -1) is Welch's test.
    """
    shared = sorted(set.intersection(*(set(sample) for sample in samples)))
    if len(shared) >= 2:
        values = [math.fsum(sign * sample[key] for sign, sample in zip(signs, samples, strict=True)) for key in shared]
        return _paired(values)
    return _welch([list(sample.values()) for sample in samples], signs)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def seeds_needed(difference: Difference, size: float) -> int | None:
    """Seeds (a side) at which a two-sided 5 % t-test sees a true difference of `size` with power 0.8.

    None where the spread is unknown or more than 10,000 seeds would not do.
    """
    if not difference.sd:
        return None
    sides = 1 if difference.paired else 2
    low, high = 1, 2
    while _power(high, size / difference.sd, sides) < POWER:
        low, high = high, high * 2
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, size / difference.sd, sides) >= POWER else (middle, high)
    return high


def _paired(values: list[float]) -> Difference:
    summary = summarize(values)
    unknown = Difference(summary.mean, (summary.n,), True, summary.sd)
    if not summary.sd:
        return unknown
    return _tested(unknown, summary.sd / math.sqrt(summary.n), summary.n - 1)


def _welch(samples: list[list[float]], signs: Sequence[int]) -> Difference:
    mean = math.fsum(sign * statistics.fmean(sample) for sign, sample in zip(signs, samples, strict=True))
    counts = tuple(len(sample) for sample in samples)
    if min(counts) < 2:
        return Difference(mean, counts, False)
    deviations = [_deviation(sample) or 0.0 for sample in samples]
    variances = [sd**2 / n for sd, n in zip(deviations, counts, strict=True)]
    unknown = Difference(mean, counts, False, math.sqrt(statistics.fmean(sd**2 for sd in deviations)))
    if not any(variances):
        return unknown
    shares = math.fsum(variance**2 / (n - 1) for variance, n in zip(variances, counts, strict=True))
    return _tested(unknown, math.sqrt(math.fsum(variances)), math.fsum(variances) ** 2 / shares)


def _tested(difference: Difference, standard_error: float, degrees: float) -> Difference:
    from scipy import stats

    half = half_width(standard_error, degrees)
    p = float(2 * stats.t.sf(abs(difference.mean) / standard_error, degrees))
    mean, n, paired, sd = difference.mean, difference.n, difference.paired, difference.sd
    return Difference(mean, n, paired, sd, mean - half, mean + half, p)


def _deviation(values: Sequence[float]) -> float | None:
    """The sample's deviation; exactly 0 where the values differ by no more than rounding."""
    if len(values) < 2:
        return None
    scale = max(1.0, *(abs(value) for value in values))
    return 0.0 if max(values) - min(values) <= 1e-9 * scale else statistics.stdev(values)


def _power(n: int, size: float, sides: int) -> float:
    from scipy import stats

    degrees = sides * (n - 1)
    noncentrality = size * math.sqrt(n / sides)
    limit = stats.t.ppf((1 + LEVEL) / 2, degrees)
    return float(stats.nct.sf(limit, degrees, noncentrality) + stats.nct.cdf(-limit, degrees, noncentrality))
