"""Our errors beside published ones: what may be compared, and what the interval says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from depthlab.config.check import check
from depthlab.config.identity import flatten, identity_values
from depthlab.config.schema import as_dict
from depthlab.errors import InputError
from depthlab.report.core.collection import collect
from depthlab.report.core.groups import Group, group_runs
from depthlab.report.depth_study.published import (
    FILE,
    Verdict,
    differences_from_paper,
    judge_published,
    not_comparable,
    published_table,
    read_published,
)

from ..conftest import compose_tree
from .synthetic import write_run

WHOLE = {"data.val_size": 0}


def groups_of(root: Path, errors: Mapping[str, Sequence[float]], overrides: Mapping[str, Any]) -> list[Group]:
    for network, values in errors.items():
        for seed, test in enumerate(values, start=1):
            write_run(root, network, seed, 0.1, test, dict(overrides), points=0)
    return group_runs(collect([root]).runs)


def verdicts_of(root: Path, network: str, test: Sequence[float], **overrides: Any) -> list[Verdict]:
    groups = groups_of(root, {network: test}, WHOLE | {k.replace("__", "."): v for k, v in overrides.items()})
    return [verdict for verdict in judge_published(groups) if verdict.number.metric == "test/err"]


@pytest.mark.parametrize(
    ("test", "word"),
    [
        ([6.9, 7.0, 7.1], "reproduced"),  # 6.75 to 7.25
        ([7.13, 7.15, 7.14], "reproduced"),  # excludes 6.97, but within half a point
        ([6.1, 6.0, 6.2], "differs"),
        ([8.1, 8.0, 8.2], "differs"),
        ([6.6, 7.0, 7.4], "compatible, too imprecise"),  # 6.0 to 8.0
        ([6.9, 7.0], "compatible, too imprecise"),
        ([6.97], "no interval"),
    ],
)
def test_the_interval_gives_the_verdict(tmp_path: Path, test: Sequence[float], word: str) -> None:
    assert {v.word for v in verdicts_of(tmp_path, "resnet56", test) if v.number.name == "paper"} == {word}


def test_a_number_that_was_read_off_is_marked_and_has_its_accuracy(tmp_path: Path) -> None:
    (verdict,) = verdicts_of(tmp_path, "plain56", [13.84, 13.85, 13.86])
    assert (verdict.number.text, verdict.word) == ("≈ 13.25", "differs")
    table = published_table([verdict])
    assert "≈ 13.25" in table.rows[0]
    assert "approx" in table.latex()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.name", "mnist"),
        ("data.val_size", 5000),
        ("trainer.max_steps", 3000),
        ("schedule.total_steps", 32000),
        ("schedule.warmup_steps", 400),
        ("data.flip", False),
        ("optimizer.lr", 0.05),
        ("optimizer.nesterov", True),
        ("trainer.accumulate_grad_batches", 4),
        ("trainer.overfit_one_batch", True),
    ],
)
def test_another_recipe_is_not_comparable_and_one_line_says_why(tmp_path: Path, key: str, value: object) -> None:
    verdicts = verdicts_of(tmp_path, "resnet56", [6.9, 7.0, 7.1], **{key.replace(".", "__"): value})
    assert {verdict.word for verdict in verdicts} == {""}
    line = not_comparable(verdicts)
    assert line.startswith("No published number was made under these conditions: ")
    assert f"{key} is {value}, not" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("key", "value"), [("augment.cutmix", 1), ("data.images_per_class", 500), ("model.freeze", "backbone")]
)
def test_what_is_on_and_not_in_the_paper_is_not_comparable(tmp_path: Path, key: str, value: object) -> None:
    groups = groups_of(tmp_path, {"resnet56": [6.9, 7.0, 7.1]}, WHOLE | {key: value})
    found = {v.unmet for v in judge_published(groups) if v.number.name == "paper"}
    assert found == {(f"{key} is {value}",)}
    assert differences_from_paper(groups)[-1] == f"{key} is {value}"


def test_depth_110_is_compared_with_the_papers_warm_up(tmp_path: Path) -> None:
    errors = [6.6, 6.65, 6.7]
    with_warmup = verdicts_of(tmp_path / "a", "resnet110", errors, schedule__warmup_steps=400)
    assert [verdict.word for verdict in with_warmup] == ["reproduced"]
    assert [verdict.word for verdict in verdicts_of(tmp_path / "b", "resnet110", errors)] == [""]


def test_precision_is_named_and_compared(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, {"resnet56": [6.9, 7.0, 7.1]}, WHOLE | {"trainer.precision": "bf16-mixed"})
    assert "reproduced" in {verdict.word for verdict in judge_published(groups)}
    assert differences_from_paper(groups) == ["trainer.precision is bf16-mixed, not 32-true"]


def test_every_key_of_a_run_is_a_condition_or_known_to_be_none() -> None:
    known = read_published()
    keys = identity_values(flatten(as_dict(check(compose_tree("model=resnet56")))))
    assert not set(keys) - {*known.paper_recipe, *known.free}


def test_a_number_without_a_source_is_an_error_with_its_name(tmp_path: Path) -> None:
    tree = yaml.safe_load(FILE.read_text())
    del tree["entries"][0]["source"]
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError, match=r"published\.yaml: paper: 'source' is missing"):
        read_published(file)


def test_every_number_has_a_source_a_link_and_the_number_of_runs() -> None:
    numbers = read_published().numbers
    assert len(numbers) == 23
    assert all(number.source and number.url.startswith("https://") and number.runs > 0 for number in numbers)
    assert all(number.conditions["data.val_size"] == 0 for number in numbers)
    several = {number.depth: (number.value, number.sd) for number in numbers if number.name == "five seeds"}
    assert several == {20: (8.13, 0.20), 32: (7.67, 0.47), 44: (7.31, 0.35), 56: (6.93, 0.23)}
