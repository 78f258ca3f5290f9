"""Recipes of one network set beside each other: which are compared, and when they count as equal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from depthlab.report.core.collection import collect
from depthlab.report.core.comparisons import Comparison, compare_recipes, sentence
from depthlab.report.core.document import Section
from depthlab.report.core.groups import find_settings, group_runs
from depthlab.report.core.margin import declared_margin, declares
from depthlab.report.core.search_section import search_sections
from depthlab.report.depth_study.best_rate import rate_sections
from depthlab.report.depth_study.rate_families import find_families, slope
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


def write_rates(root: Path, best: Mapping[str, float], noise: float = 0.0, seeds: int = 3) -> None:
    """Runs of seven rates, whose validation error is lowest at each network's best one."""
    random = np.random.RandomState(0)
    for network, rate in best.items():
        for step in range(-6, 1):
            for seed in range(1, seeds + 1):
                shift = random.normal(0, noise) if noise else 0.0
                error = 5 + 20 * abs(step / 2 - math.log10(rate) + shift)
                write_run(root, network, seed, error, error, overrides={"optimizer.lr": 10 ** (step / 2)}, points=0)


def rates_of(root: Path) -> Section:
    (section,) = rate_sections(group_runs(collect([root]).runs), declared=True)
    return section


def test_the_slope_of_the_best_rate_is_found(tmp_path: Path) -> None:
    """Planted: a factor of 1/10 for plain networks from depth 20 to 80, none for residual ones."""
    write_rates(tmp_path, {"plain20": 0.1, "plain38": 0.0316, "plain80": 0.01, "resnet20": 0.1, "resnet80": 0.1})
    plain, residual, difference = rates_of(tmp_path).findings
    assert plain.title == "Best rate, plain"
    assert plain.word == "falls with depth"
    assert plain.text.startswith("The best rate changes by a factor of 0.32 for each doubling of depth (95 % CI 0.")
    assert "depths 20, 38, 80; n = 3 a depth" in plain.text
    assert (residual.title, residual.word) == ("Best rate, residual", "no trend shown")
    assert residual.text.startswith("The best rate changes by a factor of 1.00 for each doubling")
    assert difference.word == "differ"
    assert difference.text.startswith("The factor of plain networks is 0.32 times that of residual ones")
    (table,) = rates_of(tmp_path).tables
    assert [row[:5] for row in table.rows if row[0] == "plain"] == [
        ("plain", 20, 7, 3, 0.1), ("plain", 38, 7, 3, 0.032), ("plain", 80, 7, 3, 0.01),
    ]  # fmt: skip


def test_the_interval_of_the_slope_covers_it_and_is_no_narrower_than_the_grid(tmp_path: Path) -> None:
    for name, noise in (("exact", 0.0), ("noisy", 0.4)):
        write_rates(tmp_path / name, {"plain20": 0.1, "plain80": 0.01}, noise, seeds=4)
        (family,) = find_families(group_runs(collect([tmp_path / name]).runs))
        trend = slope(family.judged)
        assert trend.interval is not None
        low, high = trend.interval
        assert low < -0.5 < high
        # Two depths, two doublings apart, four seeds, rates half a decade apart: as if rounded to them.
        floor = 0.5 / math.sqrt(12) * math.sqrt(2 / 4) / 2
        assert high - low >= 2 * stats.t.ppf(0.975, 6) * floor * 0.999


def test_equal_errors_count_as_the_rate_between_and_edges_are_said(tmp_path: Path) -> None:
    for network in ("plain20", "plain56"):
        for rate, error in ((0.01, 5.0), (0.1, 5.0), (1.0, 50.0)):
            write_run(tmp_path, network, 1, error, error, overrides={"optimizer.lr": rate}, points=0)
    (family,) = find_families(group_runs(collect([tmp_path]).runs))
    assert [each.best.values for each in family.depths] == [{(1,): pytest.approx(-1.5)}] * 2
    write_run(tmp_path, "plain56", 1, 2.0, 2.0, overrides={"optimizer.lr": 0.001}, points=0)
    (finding,) = rates_of(tmp_path).findings
    assert finding.text.endswith(
        "1 of 2 best rates are the lowest or the highest that was run, so the trend may be steeper."
    )


def test_a_depth_that_learns_at_no_rate_has_no_best_one(tmp_path: Path) -> None:
    write_rates(tmp_path, {"plain20": 0.1, "plain56": 0.03})
    for rate in (0.01, 0.1, 1.0):
        write_run(tmp_path, "plain110", 1, 89.0, 89.0 + rate, overrides={"optimizer.lr": rate}, points=0)
    section = rates_of(tmp_path)
    assert section.lines == ("plain, depth 110: no rate leaves the error clearly below chance, so none is the best.",)
    assert "depths 20, 56;" in section.findings[0].text


def test_trends_that_no_file_declares_are_exploratory_and_get_no_verdict(tmp_path: Path) -> None:
    write_rates(tmp_path, {"plain20": 0.1, "plain80": 0.01})
    groups = group_runs(collect([tmp_path]).runs)
    (section,) = rate_sections(groups)
    assert section.findings == ()
    assert section.lines[0].startswith("Exploratory, best rate, plain: The best rate changes by a factor of 0.32")
    assert declares(["best_rate"], "best rate") and not declares(["digits_rate"], "best rate")


def test_the_rates_with_the_lowest_training_error_stand_beside(tmp_path: Path) -> None:
    for network in ("plain20", "plain56"):
        for rate, train, val in ((0.01, 0.0, 9.0), (0.1, 0.0, 5.0), (1.0, 3.0, 6.0)):
            metrics = {"metrics": {"train/err": train, "val/err": val, "test/err": val}}
            write_run(tmp_path, network, 1, train, val, {"optimizer.lr": rate}, metrics, points=0)
    (table,) = rates_of(tmp_path).tables
    assert table.header[-4:] == (
        *("rate of the lowest validation error (%)", "its mean", "rate of the lowest training error (%)", "its mean"),
    )
    assert [row[-4:] for row in table.rows] == [("0.1", 5.0, "0.01, 0.1", 0.0)] * 2


def test_two_rates_or_one_depth_have_no_section(tmp_path: Path) -> None:
    for network, rates in (("plain20", (0.01, 0.1, 1.0)), ("plain56", (0.01, 0.1))):
        for rate in rates:
            write_run(tmp_path, network, 1, 5.0, 5.0, overrides={"optimizer.lr": rate}, points=0)
    assert rate_sections(group_runs(collect([tmp_path]).runs)) == []


SEARCH: dict[str, Any] = {
    "version": 1,
    "objective": "val/err",
    "metric": {"name": "err", "title": "error", "unit": "%", "better": "lower"},
    "space": {
        "optimizer.lr": {"low": 0.001, "high": 1.0, "step": None, "log": True, "whole": False},
        "model": {"choices": ["plain20", "resnet20"]},
    },
    "search": {"trials": 4},
    "importance": {"optimizer.lr": 0.75, "model": 0.25},
    "command": "python train.py model=resnet20 optimizer.lr=0.1",
    "best": None,
    "trials": [
        {"number": 1, "state": "complete", "params": {"optimizer.lr": "0.01", "model": "plain20"}, "value": 30.0,
         "values": [29.0, 31.0], "num_diverged": 0},
        {"number": 2, "state": "complete", "params": {"optimizer.lr": "0.1", "model": "resnet20"}, "value": 3.0,
         "values": [2.5, 3.5], "num_diverged": 0},
        {"number": 3, "state": "pruned", "params": {"optimizer.lr": "0.9", "model": "plain20"}, "value": None,
         "values": [], "num_diverged": 0},
        {"number": 4, "state": "running", "params": {}, "value": None},
    ],
}  # fmt: skip


@pytest.mark.usefixtures("full_size_figures")
def test_the_page_of_a_search_has_its_best_trials_figures_and_command(tmp_path: Path) -> None:
    write_run(tmp_path, "plain20", 1, 5.0, 5.0, points=0)
    path = tmp_path / "sweep" / "search-0a1b2c3d" / "search.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(SEARCH))
    report = make_report([tmp_path], tmp_path / "report")
    section = report.document.sections[0]
    assert section.heading == "Search"
    assert section.lines[0] == "4 of 4 trials (2 complete, 1 pruned, 1 running); objective: val/err."
    assert section.lines[1].startswith("Best: optimizer.lr=0.1, model=resnet20 with 3.00 ± 0.71 %, n = 2. As the best")
    assert section.lines[2].endswith("(fANOVA): optimizer.lr 75 %, model 25 %.")
    assert section.text == SEARCH["command"]
    assert [row[:3] for row in section.tables[0].rows] == [("2", "0.1", "resnet20"), ("1", "0.01", "plain20")]
    names = ("search_slices", "search_history", "search_parallel")
    assert [figure.name for figure in section.figures] == list(names)
    assert all((tmp_path / "report" / "figures" / f"{name}.png").stat().st_size > 5000 for name in names)
    assert SEARCH["command"] in report.page.read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"trials": None},
        {"trials": [{**SEARCH["trials"][0], "value": "nan"}]},
        {"trials": [{**SEARCH["trials"][0], "params": {"optimizer.lr": "fast", "model": "plain20"}}]},
        {"trials": [{**SEARCH["trials"][0], "params": {"optimizer.lr": "0.1", "model": "alexnet"}}]},
        {"space": []},
        {"search": {}},
    ],
)
def test_a_damaged_search_is_named_and_the_report_is_written(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "sweep" / "search-0a1b2c3d" / "search.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**SEARCH, **change}))
    (section,) = search_sections([tmp_path])
    assert section.lines[0].startswith("search-0a1b2c3d/search.json is damaged (")
