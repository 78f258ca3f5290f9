"""Simulated sweeps: how often the four claims are made where they are false, and where they are true.

Each scenario draws 2,000 sweeps of n = 3 and n = 5 runs a cell, with means and standard deviations of training and test
error from published records (20 and 56 layers of superseded/digits_depth, superseded/mnist_depth and
cifar10_depth_short), and judges them with the function that the report uses.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from depthlab.report.core.statistics import Sample, contrasts, t_quantile
from depthlab.report.depth_study.claims import MARGIN, NOT_JUDGED, SHOWN, Cell, Quad, decide_in_sequence

SWEEPS = 2000
MOST_FALSE = 0.06
CHANCE = 90.0
CELLS = ("plain shallow", "plain deep", "residual shallow", "residual deep")
Cells = Mapping[str, tuple[float, float, float, float]]  # mean and deviation of training, then of test error

# From the committed records: mean and sample standard deviation over three runs; images of training and test.
DIGITS: Cells = {
    "plain shallow": (0.0, 0.0, 2.037, 0.642),
    "plain deep": (77.333, 11.597, 77.870, 9.955),
    "residual shallow": (0.0, 0.0, 1.574, 0.699),
    "residual deep": (0.744, 0.270, 3.796, 1.253),
}
MNIST: Cells = {
    "plain shallow": (0.993, 0.234, 1.663, 0.025),
    "plain deep": (16.600, 5.429, 17.180, 5.559),
    "residual shallow": (1.067, 0.395, 1.770, 0.382),
    "residual deep": (1.447, 0.325, 2.017, 0.244),
}
CIFAR10: Cells = {
    "plain shallow": (20.553, 0.413, 22.343, 0.275),
    "plain deep": (68.427, 0.778, 67.653, 1.298),
    "residual shallow": (18.417, 0.750, 20.387, 0.830),
    "residual deep": (29.634, 6.726, 31.383, 6.154),
}
SETTINGS = {"digits": (DIGITS, 1300, 360), "mnist": (MNIST, 5000, 10_000), "cifar10": (CIFAR10, 45_000, 10_000)}


def drawn(cells: Cells, n: int, num_train: int, num_test: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """For each cell errors of shape (2, SWEEPS, n), training then test: normal, clipped, whole numbers of images."""
    rng = np.random.default_rng(seed)
    made = {}
    for name in CELLS:
        train_mean, train_sd, test_mean, test_sd = cells[name]
        noise = rng.normal(size=(2, SWEEPS, n))
        values = np.array([train_mean, test_mean])[:, None, None] + noise * np.array([train_sd, test_sd])[:, None, None]
        images = np.array([num_train, num_test])[:, None, None]
        made[name] = np.round(np.clip(values, 0, 100) / 100 * images) / images * 100
    return made


def shown_claims(errors: Mapping[str, NDArray[np.float64]], num_train: int, num_test: int) -> NDArray[np.bool_]:
    """Which of the four claims each drawn sweep shows, shape (4, SWEEPS), from the intervals that the report prints."""
    pairs = [("plain deep", "plain shallow", 0), ("plain deep", "residual deep", 0), ("plain deep", "residual deep", 1)]
    floors = (50 / num_train, 50 / num_test)
    made = []
    for first, second, split in [*pairs, ("residual deep", "residual shallow", 0)]:
        samples = [errors[name][split] for name in (first, second)]
        mean, error, degrees = contrasts(samples, [1.0, -1.0], [floors[split]] * 2)
        half = t_quantile(degrees) * error
        above = mean - half > 0 if len(made) < 3 else mean + half < MARGIN
        made.append(above & ~straddles(samples[0]) & ~straddles(samples[1]))
    return np.logical_and.accumulate(made)


def straddles(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether one run is below half of the chance error and another above three quarters of it."""
    return (values < CHANCE / 2).any(-1) & (values > 0.75 * CHANCE).any(-1)


def rates(cells: Cells, n: int, num_train: int, num_test: int) -> list[float]:
    """The share of drawn sweeps in which each of the four claims is shown."""
    shown = shown_claims(drawn(cells, n, num_train, num_test, seed=0), num_train, num_test)
    return [float(rate) for rate in shown.mean(-1)]


def nulls(cells: Cells) -> dict[str, tuple[Cells, int]]:
    """Worlds in which one claim is false and those before it are true, each with the claim's place.

    A false claim's cells have equal means and their own deviations, at a height where clipping hardly matters.
    """
    plain, residual = cells["plain deep"], cells["residual deep"]
    shallow = cells["residual shallow"]
    same_train = (plain[0], residual[1], residual[2], residual[3])
    same_test = (residual[0], residual[1], plain[2], residual[3])
    at_margin = (shallow[0] + MARGIN, residual[1], residual[2], residual[3])
    return {
        "A": ({**cells, "plain shallow": (plain[0], *cells["plain shallow"][1:])}, 0),
        "B": ({**cells, "residual deep": same_train}, 1),
        "C": ({**cells, "residual deep": same_test}, 2),
        "D": ({**cells, "residual deep": at_margin}, 3),
    }


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_report_judges_as_the_simulation_does(name: str, n: int) -> None:
    cells, num_train, num_test = SETTINGS[name]
    errors = drawn(cells, n, num_train, num_test, seed=1)
    expected = shown_claims(errors, num_train, num_test)
    for sweep in range(25):
        claims = decide_in_sequence(quad(errors, sweep, num_train, num_test))
        assert [claim.outcome == SHOWN for claim in claims] == list(expected[:, sweep])


def quad(errors: Mapping[str, NDArray[np.float64]], sweep: int, num_train: int, num_test: int) -> Quad:
    """The four networks of one drawn sweep, as the report judges them."""

    def cell(name: str, split: int) -> Cell:
        values = errors[name][split, sweep]
        settled = int((values < CHANCE / 2).sum()) if straddles(values) else None
        sample = Sample(dict(enumerate(values.tolist())), 50 / (num_train, num_test)[split], 0.0, 100.0)
        return Cell(name, sample, settled=settled)

    return Quad(*(cell(name, 0) for name in CELLS), cell("plain deep", 1), cell("residual deep", 1))


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("name", SETTINGS)
def test_no_false_claim_is_made_in_more_than_six_of_a_hundred_sweeps(name: str, n: int) -> None:
    cells, num_train, num_test = SETTINGS[name]
    for claim, (world, place) in nulls(cells).items():
        rate = rates(world, n, num_train, num_test)[place]
        assert rate <= MOST_FALSE, f"{name}, n = {n}: claim {claim} is false and shown in {100 * rate:.1f} %"


# The least power for claims A to C that these tests hold the rules to; the exact one is printed with -s.
LEAST = {
    ("digits", 3): 0.9,
    ("digits", 5): 0.97,
    ("mnist", 3): 0.45,
    ("mnist", 5): 0.95,
    ("cifar10", 3): 0.9,
    ("cifar10", 5): 0.97,
}


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("name", SETTINGS)
def test_true_claims_are_shown_as_often_as_said(name: str, n: int) -> None:
    cells, num_train, num_test = SETTINGS[name]
    shown = rates(cells, n, num_train, num_test)
    print(f"{name}, n = {n}: A to D shown in " + ", ".join(f"{100 * rate:.1f} %" for rate in shown))
    assert min(shown[:3]) >= LEAST[name, n]
    assert shown == sorted(shown, reverse=True)


def test_two_runs_give_no_verdict() -> None:
    cells = {name: Cell(name, Sample({1: 1.0, 2: 2.0})) for name in CELLS}
    pair = Quad(*(cells[name] for name in CELLS), cells["plain deep"], cells["residual deep"])
    assert {claim.outcome for claim in decide_in_sequence(pair)} == {NOT_JUDGED}
