"""Summaries, differences and the smallest difference shown, against scipy and against cases worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from depthlab.report.core.statistics import (
    Difference,
    Sample,
    combine,
    paired,
    power,
    share_pairs,
    smallest_shown,
    summarize,
    welch,
)

A = {1: 9.7, 2: 10.1, 3: 9.5, 4: 9.9, 5: 10.4}
B = {1: 8.8, 2: 8.7, 3: 8.5, 4: 9.1, 5: 8.9}


def sample(values: list[float], **options: Any) -> Sample:
    return Sample(dict(enumerate(values)), **options)


def test_summary_worked_by_hand() -> None:
    summary = summarize(sample([1.0, 2.0, 3.0]))
    # sd = 1, standard error = 1/sqrt(3), t(0.975, 2) = 4.30265
    assert (summary.n, summary.mean, summary.sd, summary.minimum, summary.maximum) == (3, 2.0, 1.0, 1.0, 3.0)
    assert summary.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-4)
    assert summary.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-4)


def test_one_value_has_no_deviation_and_no_interval() -> None:
    summary = summarize(sample([6.97], floor=0.1))
    assert (summary.n, summary.mean, summary.sd, summary.low, summary.high) == (1, 6.97, None, None, None)


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.1 + 0.2, 0.3, 0.3], [50.0] * 5])
def test_equal_values_without_a_floor_have_no_interval(values: list[float]) -> None:
    summary = summarize(sample(values))
    assert (summary.sd, summary.low, summary.high) == (0.0, None, None)


def test_equal_values_are_as_uncertain_as_half_an_image_clipped_at_zero() -> None:
    summary = summarize(sample([0.0, 0.0, 0.0], floor=0.5, low=0.0, high=100.0))
    assert (summary.sd, summary.low) == (0.0, 0.0)
    assert summary.high == pytest.approx(4.30265 * 0.5 / math.sqrt(3), abs=1e-4)


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf]])
def test_values_that_are_not_finite_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        sample(values)


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        summarize(sample([]))


def test_welch_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        one = rng.normal(10, rng.uniform(0.1, 5), rng.integers(2, 8)).tolist()
        other = rng.normal(12, rng.uniform(0.1, 5), rng.integers(2, 8)).tolist()
        ours = welch(sample(one), sample(other))
        interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
        assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_paired_agrees_with_scipy_on_the_shared_seeds() -> None:
    ours = paired(Sample(A | {9: 99.0}), Sample(B))
    interval = stats.ttest_rel(list(A.values()), list(B.values())).confidence_interval(0.95)
    assert (ours.n, ours.paired) == ((5,), True)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_one_shared_seed_is_not_a_pairing() -> None:
    first, second = Sample({1: 1.0, 2: 1.2, 3: 1.4}), Sample({3: 2.0, 4: 2.5})
    assert not share_pairs(first, second)
    with pytest.raises(ValueError, match="too few"):
        paired(first, second)


def test_an_interval_is_clipped_to_possible_differences() -> None:
    bounded = {"low": 0.0, "high": 100.0}
    difference = welch(sample([60.0, 95.0, 80.0], **bounded), sample([0.0, 0.0, 0.0], **bounded))
    assert difference.high == 100.0
    assert difference.low is not None
    assert difference.low > 0


def test_a_floor_widens_the_interval_of_equal_values() -> None:
    bare = welch(sample([5.0, 5.0, 5.0]), sample([4.0, 4.0, 4.0]))
    assert (bare.mean, bare.interval) == (1.0, None)
    floored = welch(sample([5.0, 5.0, 5.0], floor=0.1), sample([4.0, 4.0, 4.0], floor=0.1))
    # Standard error 0.1 * sqrt(2/3), four degrees of freedom: t = 2.77645
    assert floored.low == pytest.approx(1 - 2.77645 * 0.1 * math.sqrt(2 / 3), abs=1e-5)


@pytest.mark.parametrize("counts", [(1, 1), (1, 3)])
def test_a_single_run_on_a_side_gives_a_difference_without_interval(counts: tuple[int, int]) -> None:
    difference = welch(sample([5.0] * counts[0], floor=1), sample([4.0] * counts[1], floor=1))
    assert (difference.mean, difference.interval, smallest_shown(difference)) == (1.0, None, None)


def test_the_images_share_is_added_and_never_narrows() -> None:
    samples = [sample([70.0, 85.0, 90.0]), sample([3.0, 4.0, 5.0])]
    runs_only = combine(samples, [1, -1])
    with_images = combine(samples, [1, -1], images=(4.0, 360))
    halves = [(d.high or 0) - d.mean for d in (runs_only, with_images)]
    assert halves[1] == pytest.approx(math.hypot(halves[0], stats.t.ppf(0.975, 359) * 2.0), rel=1e-9)


@pytest.mark.parametrize(("noncentrality", "degrees"), [(2.8, 4), (4.0, 2), (3.0, 62.0), (1.0, 8.5)])
def test_power_agrees_with_the_noncentral_t(noncentrality: float, degrees: float) -> None:
    limit = stats.t.ppf(0.975, degrees)
    exact = stats.nct.sf(limit, degrees, noncentrality) + stats.nct.cdf(-limit, degrees, noncentrality)
    assert power(noncentrality, degrees) == pytest.approx(float(exact), abs=1e-3)


def test_power_is_a_number_where_scipys_noncentral_t_is_not() -> None:
    # scipy issue 25470: NaN for some arguments; a large noncentrality at few degrees is one of its regions.
    for degrees in (1.0, 1.5, 2.0, 3.3, 500.0):
        for noncentrality in (0.0, 1e-3, 5.0, 40.0, 1e3):
            assert 0 <= power(noncentrality, degrees) <= 1


def test_the_smallest_difference_shown_is_seen_in_four_of_five_experiments() -> None:
    # Cohen 1988, table 2.4.1: 64 a group show 0.5 standard deviations with power 0.8.
    error = math.sqrt(2 / 64)
    assert smallest_shown(Difference(0, (64, 64), False, error, 126, -1, 1)) == pytest.approx(0.5, abs=0.005)
    rng = np.random.default_rng(1)
    size = smallest_shown(Difference(0, (3, 3), False, math.sqrt(2 / 3), 4, -1, 1)) or 0.0
    drawn = rng.normal(0, 1, (20_000, 2, 3)) + np.array([size, 0.0])[None, :, None]
    tests = stats.ttest_ind(drawn[:, 0], drawn[:, 1], axis=1)
    assert float(np.mean(tests.pvalue < 0.05)) == pytest.approx(0.8, abs=0.01)
