"""Means and differences with their 95 % intervals, and the smallest difference that runs would show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
POWER = 0.8
FEWEST_PAIRS = 2

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """The values of one metric over repetitions, each named by what tells it apart (such as a seed).

    Attributes:
        values: from repetition to value; all finite.
        floor: the least standard deviation that an interval assumes, such as half an image in percent.
        low: the least possible value.
        high: the largest possible value.
    """

    values: Mapping[Any, float]
    floor: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.values.values()):
            raise ValueError(f"values must be finite, got {list(self.values.values())}")

    @property
    def n(self) -> int:
        """The number of repetitions."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float:
        """The standard deviation that intervals are made of: the sample's, but no less than the floor."""
        return max(deviation(list(self.values.values())) or 0.0, self.floor)


@dataclass(frozen=True)
class Summary:
    """Repetitions of one measurement.

    `sd` is the sample's standard deviation, None for one run. `low` and `high` bound the mean (t, 95 %, clipped to
    possible values); None for one run, and where all runs are equal and no floor says how exact they are.
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
    """A difference of means, or another linear combination of them, with its 95 % interval.

    `n` is the number of pairs, or the number of runs on each side. `standard_error`, `degrees`, `low` and `high` are
    None where no interval is possible. `images` is the number of images whose choice the interval covers, None where
    it covers the runs alone.
    """

    mean: float
    n: tuple[int, ...]
    paired: bool
    standard_error: float | None = None
    degrees: float | None = None
    low: float | None = None
    high: float | None = None
    images: int | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def summarize(sample: Sample) -> Summary:
    """The summary of a sample of at least one value.

    Raises:
        ValueError: the sample is empty.
    """
    if not sample.values:
        raise ValueError("a summary needs at least one value")
    values = list(sample.values.values())
    low = high = None
    if sample.n > 1 and sample.spread > 0:
        half = half_width(sample.spread / math.sqrt(sample.n), sample.n - 1)
        low, high = max(sample.low, sample.mean - half), min(sample.high, sample.mean + half)
    return Summary(sample.n, sample.mean, deviation(values), low, high, min(values), max(values))


def welch(first: Sample, second: Sample) -> Difference:
    """`first` minus `second` with Welch's interval, clipped to possible differences."""
    return combine([first, second], [1.0, -1.0])


def combine(samples: Sequence[Sample], weights: Sequence[float], images: tuple[float, int] | None = None) -> Difference:
    """The sum of weight times mean over independent samples, with Satterthwaite's degrees of freedom.

    Args:
        samples: the samples; each needs two values for an interval.
        weights: one weight a sample; (1, -1) gives Welch's interval.
        images: the variance that the choice of test images adds, and the number of images behind it. Its own t interval
            is added to that of the runs as the root of the sum of squares, which is never narrower than either.
    """
    counts = tuple(sample.n for sample in samples)
    arrays = [np.array(list(sample.values.values())) for sample in samples]
    if min(counts) < 2:
        mean = math.fsum(weight * float(array.mean()) for weight, array in zip(weights, arrays, strict=True))
        return Difference(mean, counts, False)
    means, errors, dfs = contrasts(arrays, weights, [sample.floor for sample in samples])
    known, error, degrees = Difference(float(means), counts, False), float(errors), float(dfs)
    if error == 0:
        return known
    if images is not None:
        of_images = half_width(math.sqrt(images[0]), images[1] - 1)
        error *= math.hypot(1.0, of_images / half_width(error, degrees))
        known = replace(known, images=images[1])
    return _bounded(known, error, degrees, _possible(samples, weights))


def contrasts(
    samples: Sequence[Floats], weights: Sequence[float], floors: Sequence[float]
) -> tuple[Floats, Floats, Floats]:
    """Welch's contrast of many experiments at once.

    Args:
        samples: one array a sample, whose last axis holds two or more runs; the others are the experiments.
        weights: one weight a sample.
        floors: the least standard deviation of each sample.

    Returns:
        The weighted sum of means, its standard error, and Satterthwaite's degrees of freedom (NaN where the error is
        0), each with the shape of the experiments.
    """
    spreads = [np.maximum(deviations(values), floor) for values, floor in zip(samples, floors, strict=True)]
    means = sum(weight * values.mean(-1) for weight, values in zip(weights, samples, strict=True))
    counts = [values.shape[-1] for values in samples]
    parts = [(w * spread) ** 2 / n for w, spread, n in zip(weights, spreads, counts, strict=True)]
    variance = np.asarray(sum(parts))
    shares = np.asarray(sum(part**2 / (n - 1) for part, n in zip(parts, counts, strict=True)))
    degrees = np.divide(variance**2, shares, out=np.full_like(variance, np.nan), where=shares > 0)
    return np.asarray(means), np.sqrt(variance), degrees


def paired(first: Sample, second: Sample) -> Difference:
    """`first` minus `second` over the repetitions that both have, with the paired t interval.

    Raises:
        ValueError: fewer than two repetitions are shared.
    """
    shared = [key for key in first.values if key in second.values]
    if len(shared) < FEWEST_PAIRS:
        raise ValueError(f"{len(shared)} shared repetitions are too few for pairs")
    values = [first.values[key] - second.values[key] for key in shared]
    spread = max(deviation(values) or 0.0, math.hypot(first.floor, second.floor))
    known = Difference(statistics.fmean(values), (len(values),), True)
    if spread == 0:
        return known
    error = spread / math.sqrt(len(values))
    return _bounded(known, error, len(values) - 1, _possible([first, second], [1.0, -1.0]))


def share_pairs(first: Sample, second: Sample) -> bool:
    """Whether enough repetitions are in both samples for a paired interval."""
    return len(first.values.keys() & second.values.keys()) >= FEWEST_PAIRS


def smallest_shown(difference: Difference) -> float | None:
    """The smallest true difference whose interval excludes zero in 80 % of such experiments; None without an interval.

    It follows from the standard error and the degrees of freedom of these runs, not from the difference they had.
    """
    if difference.standard_error is None or difference.degrees is None:
        return None
    return difference.standard_error * _noncentrality(round(difference.degrees, 3))


def half_width(standard_error: float, degrees: float) -> float:
    """Half the width of the two-sided 95 % t interval."""
    return float(t_quantile(degrees)) * standard_error


def t_quantile(degrees: float | Floats) -> Floats:
    """The factor between a standard error and half a two-sided 95 % interval.

    Raises:
        ArithmeticError: scipy returned something that is not finite.
    """
    from scipy import special

    quantile = np.asarray(special.stdtrit(degrees, (1 + LEVEL) / 2))
    if not np.isfinite(quantile).all():
        raise ArithmeticError(f"the t quantile of {degrees} degrees of freedom is {quantile}")
    return quantile


def power(noncentrality: float, degrees: float) -> float:
    """The probability that a two-sided 5 % t test sees a difference of `noncentrality` standard errors.

    The mean over the quantiles of the standard error's own distribution, so that scipy's noncentral t, which is NaN
    for some arguments (scipy issue 25470), is not needed. Exact to 0.0002.
    """
    from scipy import special

    limits = _limits(degrees)
    probability = float(np.mean(special.ndtr(noncentrality - limits) + special.ndtr(-noncentrality - limits)))
    if not math.isfinite(probability):
        raise ArithmeticError(f"the power at {noncentrality} with {degrees} degrees of freedom is {probability}")
    return probability


def deviation(values: Sequence[float]) -> float | None:
    """The sample's standard deviation; None for one value."""
    return None if len(values) < 2 else float(deviations(np.array(values, dtype=np.float64)))


def deviations(values: Floats) -> Floats:
    """Standard deviations over the last axis; exactly 0 where values differ by no more than rounding."""
    scale = np.maximum(1.0, np.abs(values).max(-1))
    constant = np.ptp(values, axis=-1) <= 1e-9 * scale
    return np.where(constant, 0.0, values.std(-1, ddof=1))


def _bounded(known: Difference, error: float, degrees: float, possible: tuple[float, float]) -> Difference:
    half = half_width(error, degrees)
    low, high = max(possible[0], known.mean - half), min(possible[1], known.mean + half)
    return replace(known, standard_error=error, degrees=degrees, low=low, high=high)


def _possible(samples: Sequence[Sample], weights: Sequence[float]) -> tuple[float, float]:
    """The least and the largest value that the weighted sum of the samples' means can have."""
    pairs = list(zip(weights, samples, strict=True))
    low = sum(w * (s.low if w > 0 else s.high) for w, s in pairs if w)
    return low, sum(w * (s.high if w > 0 else s.low) for w, s in pairs if w)


@lru_cache(maxsize=64)
def _limits(degrees: float) -> Floats:
    """How large a difference must come out, in true standard errors, at the quantiles of the estimated error."""
    from scipy import special

    quantiles = (np.arange(2500) + 0.5) / 2500
    limits: Floats = t_quantile(degrees) * np.sqrt(2 * special.gammaincinv(degrees / 2, quantiles) / degrees)
    return limits


@lru_cache(maxsize=1024)
def _noncentrality(degrees: float) -> float:
    """How many standard errors a true difference must have to be shown with power 0.8."""
    low, high = 0.0, 4.0
    while power(high, degrees) < POWER:
        high *= 2
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, degrees) >= POWER else (middle, high)
    return high
