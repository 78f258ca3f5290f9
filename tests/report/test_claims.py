"""The four claims: what decides them, how they are worded, and what is not judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from depthlab.report.core.collection import collect
from depthlab.report.core.groups import Setting, find_settings, group_runs
from depthlab.report.core.side_by_side import Sweep
from depthlab.report.depth_study.claims import Claim
from depthlab.report.depth_study.image_variance import image_variance, two_way
from depthlab.report.depth_study.quads import RUNS_ALONE, Judgement, judge_setting, trend
from depthlab.report.depth_study.study import claims_sections

from .synthetic import write_run

PAPER = {
    "plain20": [9.7, 9.8, 9.6],
    "plain56": [13.2, 13.5, 13.0],
    "resnet20": [8.7, 8.8, 8.9],
    "resnet56": [6.9, 7.1, 6.9],
}
TITLES = ["Degradation", "Cure by shortcuts", "Cure in test error", "No degradation with shortcuts"]


def judged(root: Path, errors: Mapping[str, Sequence[float]], **options: Any) -> list[Judgement]:
    """The judgements of runs whose training and test errors are both those given."""
    for network, values in errors.items():
        for seed, value in enumerate(values, start=1):
            write_run(root, network, seed, value, value, points=0, **options)
    return [judgement for setting in settings(root) for judgement in judge_setting(setting)]


def settings(root: Path) -> list[Setting]:
    return find_settings(group_runs(collect([root]).runs))


def claims(root: Path, errors: Mapping[str, Sequence[float]], **options: Any) -> list[Claim]:
    (judgement,) = judged(root, errors, **options)
    assert [claim.title for claim in judgement.claims] == TITLES
    return list(judgement.claims)


def outcomes(root: Path, errors: Mapping[str, Sequence[float]]) -> list[str]:
    return [claim.outcome for claim in claims(root, errors)]


def test_runs_like_the_papers_show_all_four(tmp_path: Path) -> None:
    assert outcomes(tmp_path, PAPER) == ["shown"] * 4


def test_the_printed_interval_is_welchs_and_decides(tmp_path: Path) -> None:
    first = claims(tmp_path, PAPER)[0]
    interval = stats.ttest_ind(PAPER["plain56"], PAPER["plain20"], equal_var=False).confidence_interval(0.95)
    assert first.text.startswith(
        f"plain56 trains 3.53 points worse than plain20 (95 % CI {interval.low:.2f} to {interval.high:.2f}; "
        "worse in 9 of 9 pairs). Shortcuts remove all of it."
    )


def test_the_quickstarts_first_line(tmp_path: Path) -> None:
    errors = {
        "plain20": [0.0, 0.0, 0.0],
        "plain56": [80.0, 87.2, 83.9],
        "resnet20": [0.0, 0.0, 0.0],
        "resnet56": [0.5, 1.0, 0.7],
    }
    first = claims(tmp_path, errors)[0]
    line = f"{first.title}: {first.outcome}. {first.text}"
    assert line.startswith("Degradation: shown. plain56 trains 83.7 points worse than plain20 (95 % CI 74.7 to 92.7; ")
    assert "worse in 9 of 9 pairs). Shortcuts remove 99.1 % of it." in line


def test_an_interval_is_clipped_at_100_points(tmp_path: Path) -> None:
    errors = PAPER | {"plain20": [0.0, 0.0, 0.0], "plain56": [60.0, 95.0, 80.0]}
    assert "to 100; worse in 9 of 9 pairs" in claims(tmp_path, errors)[0].text


def test_the_sequence_ends_with_the_first_claim_that_is_not_shown(tmp_path: Path) -> None:
    found = claims(tmp_path, PAPER | {"plain56": [9.5, 9.9, 9.75]})
    assert [claim.outcome for claim in found] == ["not shown", "not judged", "not judged", "not judged"]
    assert "These runs would show a difference from" in found[0].text
    assert "The sequence of claims ended with “Degradation”." in found[1].text
    assert "plain56 trains 2.75 points worse than resnet56 (95 % CI" in found[1].text


def test_plain_networks_that_improve_with_depth_reverse_the_first_claim(tmp_path: Path) -> None:
    found = claims(tmp_path, PAPER | {"plain56": [5.0, 5.1, 5.2]})
    assert found[0].outcome == "reversed"
    assert "plain56 trains 4.60 points better than plain20 (95 % CI" in found[0].text


@pytest.mark.parametrize(
    ("deep", "outcome", "words"),
    [
        ([8.85, 8.9, 8.95], "shown", "The margin is +1 point"),
        ([6.9, 7.1, 6.9], "shown", "falls with depth"),
        ([9.0, 9.7, 9.9], "not shown", "The margin is +1 point"),
        ([10.3, 10.4, 10.5], "reversed", "The margin is +1 point"),
    ],
)
def test_residual_networks_may_be_up_to_a_point_worse(
    tmp_path: Path, deep: list[float], outcome: str, words: str
) -> None:
    last = claims(tmp_path, PAPER | {"plain56": [23.2, 23.5, 23.0], "resnet56": deep})[-1]
    assert (last.outcome, words in last.text) == (outcome, True)


@pytest.mark.parametrize(("n", "reason"), [(1, "one run: no verdict"), (2, "two runs: no verdict")])
def test_fewer_than_three_runs_give_no_verdict(tmp_path: Path, n: int, reason: str) -> None:
    found = claims(tmp_path, {network: errors[:n] for network, errors in PAPER.items()})
    assert {claim.outcome for claim in found} == {"not judged"}
    assert all(reason in claim.text for claim in found)
    assert ("95 % CI" in found[0].text) == (n == 2)


def test_runs_on_both_sides_of_settling_are_listed_and_not_judged(tmp_path: Path) -> None:
    found = claims(tmp_path, PAPER | {"plain56": [0.2, 75.0, 88.3]})
    assert [claim.outcome for claim in found] == ["not judged"] * 4
    assert found[0].text == "1 of 3 runs of plain56 settled (0.20, 75.0, 88.3 %)."


def test_errors_of_zero_everywhere_show_nothing_and_divide_by_nothing(tmp_path: Path) -> None:
    found = claims(tmp_path, {network: [0.0, 0.0, 0.0] for network in PAPER})
    assert found[0].outcome == "not shown"
    assert found[0].text.startswith("plain56 trains as well as plain20 (95 % CI -0.00")
    assert "nan" not in " ".join(claim.text for claim in found).lower()


def test_a_diverged_run_counts_at_chance_and_is_said(tmp_path: Path) -> None:
    errors = PAPER | {"plain56": [85.0, 88.0], "plain20": [1.0, 1.1, 1.2]}
    write_run(tmp_path, "plain56", 3, 0, 0, record={"status": "diverged", "metrics": {}}, points=0)
    first = claims(tmp_path, errors)[0]
    assert first.outcome == "shown"
    assert first.text.startswith("plain56 trains 86.6 points worse than plain20")  # (85 + 88 + 90) / 3 - 1.1
    assert "1 of 3 runs of plain56 diverged and counts at chance." in first.text


def test_each_recipe_is_judged_by_itself_and_the_other_depths_are_named(tmp_path: Path) -> None:
    for network in ("plain110", "resnet110"):
        for seed in (1, 2, 3):
            write_run(tmp_path, network, seed, 50.0 + seed, 50.0, {"schedule.warmup_steps": 400}, points=0)
    (judgement,) = judged(tmp_path, PAPER)
    assert "plain56" in judgement.claims[0].text
    assert judgement.notes[-1] == (
        "Not part of the claims, because the recipe differs (warmup_steps=400): plain110, resnet110."
    )


def test_two_recipes_with_two_depths_each_get_a_judgement_each(tmp_path: Path) -> None:
    judged(tmp_path, PAPER, overrides={"optimizer.lr": 0.01})
    assert len(judged(tmp_path, PAPER)) == 2


def test_beside_a_named_recipe_networks_go_by_their_names(tmp_path: Path) -> None:
    for rate in (0.01, 0.1):
        judged(tmp_path, PAPER, overrides={"optimizer.lr": rate})
    found = collect([tmp_path])
    groups = group_runs(found.runs)
    sections = claims_sections([Sweep("s", found, tuple(groups), tuple(find_settings(groups)))])
    assert sorted(section.heading for section in sections) == ["Findings (lr=0.01)", "Findings (lr=0.1)"]
    for section in sections:
        assert section.findings[0].text.startswith("plain56 trains 3.53 points worse than plain20 (95 % CI")


def test_missing_kinds_are_no_depth_study(tmp_path: Path) -> None:
    assert judged(tmp_path, {"plain20": [9.0, 9.1], "plain56": [9.0, 9.1]}) == []


def test_the_trend_is_the_slope_over_doublings_of_depth(tmp_path: Path) -> None:
    deeper = {"plain20": [1.0, 1.2, 1.4], "plain40": [3.0, 3.2, 3.4], "plain80": [5.0, 5.2, 5.4]}
    (judgement,) = judged(tmp_path, deeper | {"resnet20": [1.0, 1.1, 1.2], "resnet80": [1.0, 1.1, 1.2]})
    groups = [group for group in settings(tmp_path)[0].groups if not group.residual]
    slope = trend(groups)
    # Weights -1/2, 0, 1/2: the standard error is sqrt(2 * (0.2 / 2)**2 / 3), with four degrees of freedom.
    assert slope.mean == pytest.approx(2.0)
    assert (slope.high or 0) - 2.0 == pytest.approx(2.77645 * math.sqrt(2 * 0.1**2 / 3), abs=1e-4)
    assert judgement.notes[0].startswith("Trend over 3 depths (plain20 to plain80): +2.0 points of training error")


def _write_predictions(directory: Path, wrong: np.ndarray[Any, Any]) -> None:
    label = np.arange(len(wrong)) % 10
    predicted = np.where(wrong, (label + 1) % 10, label)
    (directory / "diagnostics").mkdir()
    np.savez(directory / "diagnostics" / "predictions.npz", label=label, predicted=predicted)


def _with_predictions(root: Path, num_test: int, shallow: bool = False) -> Setting:
    """Three runs each of two networks, which miss the same 40 % and 10 % of 400 stored test images in every run.

    `shallow` adds networks of 20 layers, with a training error that makes claims A and B true.
    """
    rng = np.random.default_rng(0)
    hard = rng.uniform(0, 1, 400)
    rates = {"plain56": 0.4, "resnet56": 0.1, **({"plain20": 0.1, "resnet20": 0.1} if shallow else {})}
    for network, rate in rates.items():
        for seed in (1, 2, 3):
            wrong = hard < rate
            error = 100 * float(wrong.mean())
            directory = write_run(root, network, seed, error if shallow else 5.0, error, points=0)
            record = directory / "record.json"
            record.write_text(record.read_text().replace('"num_test": 10000', f'"num_test": {num_test}'))
            _write_predictions(directory, wrong)
    (setting,) = settings(root)
    return setting


def test_on_a_small_test_set_the_interval_covers_images_too(tmp_path: Path) -> None:
    plain, residual = _with_predictions(tmp_path, num_test=400).groups
    share = image_variance(plain, residual, "test/err")
    assert share is not None
    only_plain = two_way(plain, residual, "test/err").mean / 100  # the share of images that plain networks alone miss
    assert share == (pytest.approx(100**2 * only_plain * (1 - only_plain) / 399), 400)
    # The runs are equal but for their floor of half an image, 50 / 400 points: four degrees of freedom.
    of_runs = stats.t.ppf(0.975, 4) * (50 / 400) * math.sqrt(2 / 3)
    half = math.hypot(of_runs, stats.t.ppf(0.975, 399) * math.sqrt(share[0]))
    difference = two_way(plain, residual, "test/err")
    assert difference.interval == pytest.approx((difference.mean - half, difference.mean + half))


@pytest.mark.parametrize("missing", [False, True])
def test_the_claim_on_test_error_says_whether_its_interval_covers_images(tmp_path: Path, missing: bool) -> None:
    setting = _with_predictions(tmp_path, num_test=400, shallow=True)
    if missing:
        deep = next(group for group in setting.groups if group.label == "plain56")
        (deep.runs[0].directory / "diagnostics" / "predictions.npz").unlink()
    (judgement,) = judge_setting(setting)
    sentence = "The interval covers the choice of the 400 test images too."
    assert [sentence in claim.text for claim in judgement.claims] == [False, False, not missing, False]
    assert (RUNS_ALONE in judgement.notes) == missing


@pytest.mark.parametrize("what", ["large", "missing", "other images", "other predictions"])
def test_without_fitting_predictions_the_interval_is_that_of_the_runs(tmp_path: Path, what: str) -> None:
    plain, residual = _with_predictions(tmp_path, num_test=10_000 if what == "large" else 400).groups
    path = plain.runs[0].directory / "diagnostics" / "predictions.npz"
    arrays = dict(np.load(path))
    if what == "missing":
        path.unlink()
    elif what == "other images":
        np.savez(path, label=(arrays["label"] + 1) % 10, predicted=(arrays["predicted"] + 1) % 10)
    elif what == "other predictions":
        np.savez(path, label=arrays["label"], predicted=arrays["label"])
    assert image_variance(plain, residual, "test/err") is None
    assert two_way(plain, residual, "test/err").interval is not None
