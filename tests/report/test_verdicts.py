"""What the comparisons, the four statements and the published numbers make of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from scipy import stats

from depthlab.config.identity import flatten, identity_values
from depthlab.report.core.comparisons import compare, sentence
from depthlab.report.core.groups import Group, Setting, find_settings, group_runs
from depthlab.report.core.runs import collect
from depthlab.report.depth_study.claims import Statement, judge
from depthlab.report.depth_study.published import FILE as PUBLISHED
from depthlab.report.depth_study.published import differences_from_paper, judge_published

from ..conftest import compose_tree
from .synthetic import write_run


def _groups(root: Path, errors: Mapping[str, Sequence[float]], train: Mapping[str, Sequence[float]]) -> list[Group]:
    for network, values in errors.items():
        for seed, test in enumerate(values, start=1):
            write_run(root, network, seed, train[network][seed - 1], test, points=0)
    return group_runs(collect([root]).runs)


def _setting(root: Path, errors: Mapping[str, Sequence[float]]) -> Setting:
    (setting,) = find_settings(_groups(root, errors, errors))
    return setting


PAPER = {
    "plain20": [9.7, 9.8, 9.6],
    "plain56": [13.2, 13.5, 13.0],
    "resnet20": [8.7, 8.8, 8.9],
    "resnet56": [6.9, 7.1, 6.9],
}


def _judge(setting: Setting) -> list[Statement]:
    return judge(setting, compare(setting, "train/err", 0.5), compare(setting, "test/err", 0.5))


def test_runs_like_the_papers_support_all_four_statements(tmp_path: Path) -> None:
    assert [item.outcome for item in _judge(_setting(tmp_path, PAPER))] == ["supported"] * 4


def test_runs_unlike_the_papers_contradict_all_four(tmp_path: Path) -> None:
    turned = {
        "plain20": [13.2, 13.5, 13.0],
        "plain56": [6.9, 7.1, 6.9],
        "resnet20": [8.7, 8.8, 8.9],
        "resnet56": [9.7, 9.8, 9.6],
    }
    assert [item.outcome for item in _judge(_setting(tmp_path, turned))] == ["contradicted"] * 4


def test_a_sweep_under_way_is_judged_by_the_depths_that_are_there(tmp_path: Path) -> None:
    for network in ("plain20", "plain32", "plain44"):
        for seed in (1, 2, 3):
            write_run(tmp_path, network, seed, float(network[5:]) * (1 + seed / 100), 9.0, points=0)
    write_run(tmp_path, "plain56", 1, 0, 0, record={"status": "running", "metrics": {}, "steps": 100}, points=0)
    (setting,) = find_settings(group_runs(collect([tmp_path]).runs))
    grows = _judge(setting)[0]
    assert grows.outcome == "supported"
    assert grows.reason.startswith("plain44 trains 24.48 points worse than plain20")


def test_one_run_each_decides_nothing_and_says_so(tmp_path: Path) -> None:
    statements = _judge(_setting(tmp_path, {network: errors[:1] for network, errors in PAPER.items()}))
    assert {item.outcome for item in statements} == {"undecided"}
    assert all("one run each, no interval" in item.reason for item in statements)


def test_a_step_the_other_way_contradicts_even_where_the_ends_agree(tmp_path: Path) -> None:
    setting = _setting(tmp_path, {"plain20": [5.0, 5.1, 5.2], "plain32": [2.0, 2.2, 2.3], "plain56": [9.0, 9.3, 9.4]})
    first = _judge(setting)[0]
    assert first.outcome == "contradicted"
    assert "plain32 trains" in first.reason
    assert "better than plain20" in first.reason


def test_missing_kinds_leave_statements_undecided(tmp_path: Path) -> None:
    assert {item.outcome for item in _judge(_setting(tmp_path, {"plain20": [9.0, 9.1]}))} == {"undecided"}


def test_the_sentence_carries_difference_interval_and_n(tmp_path: Path) -> None:
    setting = _setting(tmp_path, PAPER)
    comparison = next(c for c in compare(setting, "train/err", 0.5) if c.first.label == "plain56")
    interval = stats.ttest_rel(PAPER["plain56"], PAPER["resnet56"]).confidence_interval()
    between = f"95 % CI {interval.low:.2f} to {interval.high:.2f}, n = 3 pairs"
    assert sentence(comparison).startswith(f"plain56 trains 6.27 points worse than resnet56, {between}, Holm p < 0.001")


def test_equal_errors_are_called_the_same_and_not_better(tmp_path: Path) -> None:
    setting = _setting(tmp_path, {"plain20": [2.0, 3.0, 4.0], "resnet20": [2.0, 3.0, 4.0]})
    (comparison,) = compare(setting, "train/err", 0.5)
    same = "plain20 and resnet20 have the same training error, the same in every repetition"
    assert sentence(comparison).startswith(same)


def test_holms_family_is_every_comparison_of_one_error(tmp_path: Path) -> None:
    comparisons = compare(_setting(tmp_path, PAPER), "test/err", 0.5)
    names = {(c.first.label, c.second.label) for c in comparisons}
    assert names == {
        ("plain20", "resnet20"),
        ("plain56", "resnet56"),
        ("plain56", "plain20"),
        ("resnet56", "resnet20"),
    }
    smallest = min(comparisons, key=lambda c: c.difference.p or 1)
    assert smallest.p_holm == pytest.approx(4 * (smallest.difference.p or 0))


def _word(root: Path, test: Sequence[float], source: str = "paper") -> str:
    groups = _groups(root, {"resnet56": test}, {"resnet56": [0.03] * len(test)})
    return next(v.word for v in judge_published(groups) if v.source == source and v.metric == "test/err")


@pytest.mark.parametrize(
    ("test", "word"),
    [
        ([6.9, 7.0, 7.1], "reproduced"),
        ([6.1, 6.0, 6.2], "better"),
        ([8.1, 8.0, 8.2], "worse"),
        ([6.9, 7.0], "undecided"),
        ([6.97], "undecided"),
        ([7.0, 7.0, 7.0], "undecided"),
        ([3.0, 7.0, 11.0], "undecided"),
    ],
)
def test_a_verdict_on_the_papers_number(tmp_path: Path, test: Sequence[float], word: str) -> None:
    assert _word(tmp_path, test) == word


def test_the_papers_single_run_is_given_its_own_spread(tmp_path: Path) -> None:
    # Mean 7.30, sd 0.10, n = 3: the mean's own interval, 7.05 to 7.55, excludes 6.97, but a fourth run might give it.
    assert _word(tmp_path / "a", [7.2, 7.3, 7.4]) == "reproduced"
    # The median of many reproductions has none: 6.84 lies outside.
    assert _word(tmp_path / "b", [7.2, 7.3, 7.4], "reproductions") == "worse"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.name", "mnist"),
        ("trainer.max_steps", 3000),
        ("data.flip", False),
        ("optimizer.lr", 0.05),
        ("optimizer.nesterov", True),
        ("trainer.accumulate_grad_batches", 4),
        ("trainer.overfit_one_batch", True),
        ("schedule.total_steps", 32000),
    ],
)
def test_another_recipe_is_not_comparable_and_says_why(tmp_path: Path, key: str, value: object) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path, "resnet56", seed, 0.1, 6.9 + seed / 10, {key: value}, points=0)
    groups = group_runs(collect([tmp_path]).runs)
    verdicts = judge_published(groups)
    assert {verdict.word for verdict in verdicts} == {"not comparable"}
    assert f"{key} is {value}, not" in verdicts[0].reason
    assert any(line.startswith(f"{key} is {value}") for line in differences_from_paper(groups))


@pytest.mark.parametrize(
    ("key", "value"), [("augment.cutmix", 1), ("data.images_per_class", 500), ("model.freeze", "backbone")]
)
def test_what_is_on_and_not_in_the_paper_is_not_comparable(tmp_path: Path, key: str, value: object) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path, "resnet56", seed, 0.1, 6.9 + seed / 10, {key: value}, points=0)
    groups = group_runs(collect([tmp_path]).runs)
    found = {(v.word, v.reason) for v in judge_published(groups) if v.source == "paper"}
    assert found == {("not comparable", f"{key} is {value}")}
    assert differences_from_paper(groups)[-1] == f"{key} is {value}"


def test_every_key_of_a_run_is_a_condition_or_known_to_be_none() -> None:
    table = yaml.safe_load(PUBLISHED.read_text())
    keys = identity_values(flatten(compose_tree("model=resnet56")))
    assert not set(keys) - {*table["paper_recipe"], *table["free"]}


def test_precision_and_held_out_images_are_named_and_compared(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path, "resnet56", seed, 0.1, 6.8 + seed / 50, {"trainer.precision": "bf16-mixed"}, points=0)
    groups = group_runs(collect([tmp_path]).runs)
    assert {verdict.word for verdict in judge_published(groups)} >= {"reproduced"}
    lines = differences_from_paper(groups)
    assert lines == ["trainer.precision is bf16-mixed, not 32-true", "data.val_size is 5000, not 0"]


@pytest.mark.parametrize(
    ("network", "test", "source", "word"),
    [
        ("resnet56", [6.98, 6.99, 6.97], "reproductions", "reproduced"),
        ("resnet56", [7.01, 7.02, 7.0], "reproductions", "worse"),
        ("resnet56", [6.6, 6.65, 6.62], "reproductions", "better"),
        ("resnet56", [6.98, 6.99], "reproductions", "undecided"),
        ("plain56", [13.7, 13.72, 13.74], "paper", "reproduced"),
        ("plain56", [13.8, 13.82, 13.84], "paper", "worse"),
    ],
)
def test_where_there_is_a_margin_the_mean_decides(
    tmp_path: Path, network: str, test: Sequence[float], source: str, word: str
) -> None:
    groups = _groups(tmp_path, {network: test}, {network: [0.03] * len(test)})
    verdicts = [v for v in judge_published(groups) if v.source == source and v.metric == "test/err"]
    assert [verdict.word for verdict in verdicts] == [word]


def test_training_errors_are_compared_as_running_ones(tmp_path: Path) -> None:
    groups = _groups(tmp_path, {"plain56": [13.2, 13.3, 13.4]}, {"plain56": [5.5, 5.6, 5.7]})
    assert {verdict.metric for verdict in judge_published(groups)} == {"test/err", "train/err_running"}
