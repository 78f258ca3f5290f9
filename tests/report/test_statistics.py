"""Summaries, differences, corrections and seed counts against scipy and against cases worked by hand."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from depthlab.report.core.statistics import Difference, contrast, holm, seeds_needed, summarize

A = {1: 9.7, 2: 10.1, 3: 9.5, 4: 9.9, 5: 10.4}
B = {1: 8.8, 2: 8.7, 3: 8.5, 4: 9.1, 5: 8.9}


def test_summary_worked_by_hand() -> None:
    summary = summarize([1.0, 2.0, 3.0])
    # sd = 1, standard error = 1/sqrt(3), t(0.975, 2) = 4.30265
    assert (summary.n, summary.mean, summary.sd, summary.minimum, summary.maximum) == (3, 2.0, 1.0, 1.0, 3.0)
    assert summary.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-4)
    assert summary.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-4)


def test_one_value_has_no_deviation_and_no_interval() -> None:
    summary = summarize([6.97])
    assert (summary.n, summary.mean, summary.sd, summary.low, summary.high) == (1, 6.97, None, None, None)


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.1 + 0.2, 0.3, 0.3], [50.0] * 5])
def test_equal_values_have_deviation_zero_and_no_interval(values: list[float]) -> None:
    summary = summarize(values)
    assert (summary.sd, summary.low, summary.high) == (0.0, None, None)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_values_that_cannot_be_averaged_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        summarize(values)


def test_shared_seeds_give_the_paired_test_of_scipy() -> None:
    difference = contrast([A, B], [1, -1])
    expected = stats.ttest_rel(list(A.values()), list(B.values()))
    interval = expected.confidence_interval()
    assert difference.paired
    assert difference.n == (5,)
    assert (difference.p, difference.low, difference.high) == pytest.approx(
        (expected.pvalue, interval.low, interval.high)
    )


def test_other_seeds_give_welchs_test_of_scipy() -> None:
    other = {10 + seed: error for seed, error in list(B.items())[:3]}
    difference = contrast([A, other], [1, -1])
    expected = stats.ttest_ind(list(A.values()), list(other.values()), equal_var=False)
    interval = expected.confidence_interval()
    assert not difference.paired
    assert difference.n == (5, 3)
    assert (difference.p, difference.low, difference.high) == pytest.approx(
        (expected.pvalue, interval.low, interval.high)
    )


def test_one_shared_seed_is_not_a_pairing() -> None:
    difference = contrast([{1: 1.0, 2: 1.2, 3: 1.4}, {3: 2.0, 4: 2.5}], [1, -1])
    assert not difference.paired
    assert difference.n == (3, 2)


def test_only_shared_seeds_enter_a_paired_difference() -> None:
    difference = contrast([{1: 5.0, 2: 6.0, 9: 99.0}, {1: 4.0, 2: 4.5}], [1, -1])
    assert (difference.mean, difference.n) == (1.25, (2,))


def test_a_single_run_a_side_gives_a_difference_without_interval() -> None:
    difference = contrast([{1: 5.0}, {1: 4.0}], [1, -1])
    assert (difference.mean, difference.p, difference.low, difference.high) == (1.0, None, None, None)


@pytest.mark.parametrize("seeds", [(1, 2), (3, 4)])
def test_no_variance_claims_nothing(seeds: tuple[int, int]) -> None:
    difference = contrast([{1: 0.3, 2: 0.3}, dict.fromkeys(seeds, 0.1)], [1, -1])
    assert difference.mean == pytest.approx(0.2)
    assert (difference.p, difference.low, difference.high) == (None, None, None)


def test_constant_pair_differences_claim_nothing_despite_rounding() -> None:
    difference = contrast([{1: 55.3, 2: 55.4, 3: 55.5}, {1: 0.1, 2: 0.2, 3: 0.3}], [1, -1])
    assert (difference.sd, difference.p) == (0.0, None)


def test_gain_of_gains_worked_by_hand() -> None:
    groups = [{1: 10.0, 2: 12.0}, {1: 5.0, 2: 6.0}, {1: 4.0, 2: 4.0}, {1: 3.0, 2: 4.0}]
    # (10 - 5) - (4 - 3) = 4 and (12 - 6) - (4 - 4) = 6
    difference = contrast(groups, [1, -1, -1, 1])
    assert (difference.mean, difference.n, difference.paired) == (5.0, (2,), True)
    assert difference.low == pytest.approx(5 - 12.7062, abs=1e-3)


def test_holm_worked_by_hand() -> None:
    # Sorted: 0.005*4 = 0.02; 0.01*3 = 0.03; 0.03*2 = 0.06; 0.04*1 -> 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_seeds_needed_agrees_with_the_textbook() -> None:
    # d = 0.5, two-sided 5 %, power 0.8: 64 a group (Cohen 1988, table 2.4.1); d = 1 paired: 10 pairs.
    assert seeds_needed(Difference(0, (5, 5), False, sd=1.0), 0.5) == 64
    assert seeds_needed(Difference(0, (5,), True, sd=1.0), 1.0) == 10


def test_seeds_needed_is_unknown_without_spread_and_bounded() -> None:
    assert seeds_needed(Difference(0, (1, 1), False), 0.5) is None
    assert seeds_needed(Difference(0, (2,), True, sd=0.0), 0.5) is None
    assert seeds_needed(Difference(0, (2,), True, sd=50.0), 0.01) is None
