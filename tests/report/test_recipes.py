"""Recipes of one network set beside each other: which are compared, and when they count as equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from depthlab.report.core.collection import collect
from depthlab.report.core.comparisons import Comparison, compare_recipes, sentence
from depthlab.report.core.groups import find_settings, group_runs
from depthlab.report.core.margin import declared_margin
from depthlab.report.report import make_report

from .synthetic import write_run

FP32, BF16 = "trainer.precision=32-true", "trainer.precision=bf16-mixed"


def compared(root: Path, errors: Mapping[tuple[str, ...], Sequence[float]]) -> list[Comparison]:
    """From (network, override, ...) to the test errors of seeds 1, 2, ..."""
    for (network, *overrides), values in errors.items():
        typed: dict[str, Any] = dict(override.split("=") for override in overrides)
        for seed, test in enumerate(values, start=1):
            write_run(root, network, seed, 1.0, test, overrides=typed, points=0)
    groups = group_runs(collect([root]).runs)
    return compare_recipes(groups, find_settings(groups), "test/err")


def test_recipes_of_one_network_that_differ_in_one_key_are_compared(tmp_path: Path) -> None:
    errors = {
        (network, key): [8.0, 8.1, 7.9 + idx / 100]
        for idx, (network, key) in enumerate((n, k) for n in ("resnet20", "plain20") for k in (FP32, BF16))
    }
    pairs = {(c.first.label, c.second.label) for c in compared(tmp_path, errors)}
    assert pairs == {
        (f"{network} (precision=bf16-mixed)", f"{network} (precision=32-true)") for network in ("resnet20", "plain20")
    }


def test_recipes_that_differ_in_two_keys_are_not(tmp_path: Path) -> None:
    errors = {("resnet20", FP32): [8.0, 8.1], ("resnet20", BF16, "data.flip=false"): [8.0, 8.1]}
    assert compared(tmp_path, errors) == []


def test_shortcut_options_are_compared_within_their_setting_alone(tmp_path: Path) -> None:
    errors = {("resnet20", f"model.shortcut={option}"): [8.0, 8.1] for option in "ABC"}
    assert compared(tmp_path, errors) == []


def test_each_of_many_is_held_against_the_first(tmp_path: Path) -> None:
    errors = {("resnet20", f"data.batch_size={size}"): [8.0, 8.1] for size in ("32", "64", "128", "256")}
    comparisons = compared(tmp_path, errors)
    assert len(comparisons) == 3
    assert len({id(c.second) for c in comparisons}) == 1


OURS = [8.0, 8.2, 8.1, 8.1]


def test_recipes_of_one_network_are_paired_by_seed(tmp_path: Path) -> None:
    theirs = [9.0, 9.3, 9.1, 9.2]
    (comparison,) = compared(tmp_path, {("resnet20", BF16): OURS, ("resnet20", FP32): theirs})
    interval = stats.ttest_rel(theirs, OURS).confidence_interval(0.95)
    sign = 1 if comparison.first.config["trainer.precision"] == "32-true" else -1
    assert comparison.difference.paired
    assert comparison.difference.n == (4,)
    assert sorted(sign * bound for bound in comparison.difference.interval or ()) == pytest.approx(list(interval))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ([8.0, 8.3, 8.1, 8.2], ": equal within the margin of 0.5 points"),
        ([8.9, 7.2, 8.9, 7.3], ": not shown to be equal within the margin of 0.5 points"),
        ([9.0, 9.2, 9.1, 9.1], ": not shown to be equal within the margin of 0.5 points"),
    ],
)
def test_equality_needs_a_margin_that_holds_the_whole_interval(tmp_path: Path, other: list[float], words: str) -> None:
    (comparison,) = compared(tmp_path, {("resnet20", BF16): OURS, ("resnet20", FP32): other})
    assert sentence(comparison, 0.5).endswith(words)
    assert "equal" not in sentence(comparison)


def test_the_margin_is_what_the_experiments_file_states(tmp_path: Path) -> None:
    (tmp_path / "stated.yaml").write_text(
        "# Takes:      a minute\n# Margin:     0.5 points of test error\nname: stated\n"
    )
    (tmp_path / "silent.yaml").write_text("# Takes:      a minute\nname: silent\n")
    assert declared_margin(["stated", "stated"], [tmp_path]) == 0.5
    assert declared_margin(["silent"], [tmp_path]) is None
    assert declared_margin(["stated", "silent"], [tmp_path]) is None
    assert declared_margin(["../stated"], [tmp_path]) is None


def test_the_margin_of_the_command_line_reaches_the_page(tmp_path: Path) -> None:
    compared(tmp_path / "sweep", {("resnet20", BF16): OURS, ("resnet20", FP32): [8.0, 8.3, 8.1, 8.2]})
    page = make_report([tmp_path / "sweep"], tmp_path / "out", margin=0.5).markdown.read_text()
    assert "equal within the margin of 0.5 points" in page
    assert "margin" not in make_report([tmp_path / "sweep"], tmp_path / "out").markdown.read_text()
