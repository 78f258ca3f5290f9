"""The four claims of the depth study, declared in advance and judged in fixed sequence.

Each claim is decided by the 95 % interval that is printed. The sequence (A to D) ends with the first claim that is not
shown, which keeps the rate of false claims at that of one test without a correction (Maurer, Hothorn, Lehmacher 1995).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from depthlab.report.core.comparisons import number
from depthlab.report.core.statistics import Difference, Sample, smallest_shown, welch

SHOWN, NOT_SHOWN, REVERSED, NOT_JUDGED = "shown", "not shown", "reversed", "not judged"
FEWEST_RUNS = 3
TEST_CLAIM = "Cure in test error"
MARGIN = 1.0  # points of training error by which a deep residual network may be worse without degrading


@dataclass(frozen=True)
class Cell:
    """The runs of one network in one error.

    Attributes:
        label: the network's name.
        sample: the errors in percent; diverged runs count at chance.
        diverged: how many of them diverged.
        settled: how many runs settled, where others stayed near chance; None where the runs agree.
    """

    label: str
    sample: Sample
    diverged: int = 0
    settled: int | None = None


@dataclass(frozen=True)
class Quad:
    """The four networks of a study: plain and residual, at the shallow and at the deep end; and their test errors.

    `test_difference` gives the difference of the two test cells; by default Welch's.
    """

    plain_shallow: Cell
    plain_deep: Cell
    residual_shallow: Cell
    residual_deep: Cell
    plain_deep_test: Cell
    residual_deep_test: Cell
    test_difference: Callable[[], Difference] | None = None


@dataclass(frozen=True)
class Claim:
    """One claim, its verdict, the sentence with the numbers, and the difference that decided."""

    title: str
    outcome: str
    text: str
    difference: Difference | None = None


def decide_in_sequence(quad: Quad) -> list[Claim]:
    """The four claims in sequence; what follows the first that is not shown is not judged."""
    claims = [
        _claim("Degradation", quad.plain_deep, quad.plain_shallow, "trains"),
        _claim("Cure by shortcuts", quad.plain_deep, quad.residual_deep, "trains"),
        _claim(TEST_CLAIM, quad.plain_deep_test, quad.residual_deep_test, "tests", quad.test_difference),
        _residual(quad),
    ]
    for idx, claim in enumerate(claims):
        if claim.outcome != SHOWN:
            reason = f"The sequence of claims ended with “{claim.title}”."
            claims[idx + 1 :] = [replace(c, outcome=NOT_JUDGED, text=f"{c.text} {reason}") for c in claims[idx + 1 :]]
            break
    if claims[0].outcome == claims[1].outcome == SHOWN:
        claims[0] = replace(claims[0], text=claims[0].text + _cured(quad))
    return claims


def decide(difference: Difference, above: float) -> str:
    """What an interval says to the claim that the difference is larger than `above`."""
    if difference.low is None or difference.high is None:
        return NOT_JUDGED
    return SHOWN if difference.low > above else REVERSED if difference.high < above else NOT_SHOWN


def difference_in_words(first: Cell, second: Cell, verb: str, difference: Difference) -> str:
    """`plain56 trains 77.3 points worse than plain20 (95 % CI 48.6 to 100; worse in 9 of 9 pairs)`."""
    sign = -1 if difference.mean < 0 else 1
    word = "worse" if sign > 0 else "better"
    amount = f"{number(abs(difference.mean))} points {word} than" if difference.mean else "as well as"
    pairs = [sign * (a - b) > 0 for a in first.sample.values.values() for b in second.sample.values.values()]
    part = f"{word} in {sum(pairs)} of {len(pairs)} pairs"
    if difference.low is None or difference.high is None:
        return f"{first.label} {verb} {amount} {second.label} (no interval; {part})"
    low, high = sorted(sign * bound for bound in (difference.low, difference.high))
    return f"{first.label} {verb} {amount} {second.label} (95 % CI {number(low)} to {number(high)}; {part})"


def _claim(title: str, first: Cell, second: Cell, verb: str, between: Callable[[], Difference] | None = None) -> Claim:
    """The claim that the errors of `first` are above those of `second`."""
    if reason := _not_judged([first, second]):
        return _unjudged(title, first, second, verb, reason)
    difference = between() if between else welch(first.sample, second.sample)
    outcome = decide(difference, 0.0)
    text = f"{difference_in_words(first, second, verb, difference)}.{_notes([first, second])}"
    if difference.images is not None:
        text += f" The interval covers the choice of the {difference.images:,} test images too."
    if outcome == NOT_SHOWN and (smallest := smallest_shown(difference)) is not None:
        text += f" These runs would show a difference from {number(smallest)} points on."
    return Claim(title, outcome, text, difference)


def _residual(quad: Quad) -> Claim:
    """The claim that the deep residual network trains less than one point worse than the shallow one."""
    title, first, second = "No degradation with shortcuts", quad.residual_deep, quad.residual_shallow
    if reason := _not_judged([first, second]):
        return _unjudged(title, first, second, "trains", reason)
    difference = welch(first.sample, second.sample)
    turned = {SHOWN: REVERSED, REVERSED: SHOWN}
    above = decide(difference, MARGIN)
    outcome = turned.get(above, above)
    falls = outcome == SHOWN and difference.high is not None and difference.high < 0
    margin = "The training error falls with depth" if falls else f"The margin is +{MARGIN:g} point"
    text = f"{difference_in_words(first, second, 'trains', difference)}. {margin}.{_notes([first, second])}"
    return Claim(title, outcome, text, difference)


def _unjudged(title: str, first: Cell, second: Cell, verb: str, reason: str) -> Claim:
    """A claim without a verdict; what was measured is said where both cells have runs that agree."""
    if not first.sample.values or not second.sample.values or "settled" in reason:
        return Claim(title, NOT_JUDGED, f"{reason}.")
    difference = welch(first.sample, second.sample)
    text = f"{difference_in_words(first, second, verb, difference)}; {reason}.{_notes([first, second])}"
    return Claim(title, NOT_JUDGED, text, difference)


def _not_judged(cells: Sequence[Cell]) -> str:
    """Why cells allow no verdict; empty where they do."""
    for cell in cells:
        if not cell.sample.values:
            return f"{cell.label} has no finished run"
        if cell.settled is not None:
            values = ", ".join(number(value) for value in sorted(cell.sample.values.values()))
            return f"{cell.settled} of {cell.sample.n} runs of {cell.label} settled ({values} %)"
    fewest = min(cell.sample.n for cell in cells)
    if fewest < FEWEST_RUNS:
        return "two runs: no verdict" if fewest == 2 else "one run: no verdict"
    return ""


def _notes(cells: Sequence[Cell]) -> str:
    notes = [
        f" {cell.diverged} of {cell.sample.n} runs of {cell.label} diverged and count{'s' * (cell.diverged == 1)} "
        "at chance."
        for cell in cells
        if cell.diverged
    ]
    return "".join(notes)


def _cured(quad: Quad) -> str:
    """How much of the plain networks' degradation the residual ones do not have."""
    if _not_judged([quad.residual_deep, quad.residual_shallow]):
        return ""
    plain = quad.plain_deep.sample.mean - quad.plain_shallow.sample.mean
    residual = quad.residual_deep.sample.mean - quad.residual_shallow.sample.mean
    share = 100 * (1 - residual / plain)
    text = "all" if share >= 99.95 else f"{share:.1f} %" if share >= 99 else f"{share:.0f} %"
    return f" Shortcuts remove {text} of it."
