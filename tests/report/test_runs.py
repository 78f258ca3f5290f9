"""Which runs enter, which are left out and why, and which are repetitions of each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from depthlab.errors import InputError
from depthlab.report.core.collection import collect
from depthlab.report.core.comparisons import compare
from depthlab.report.core.groups import find_settings, group_runs
from depthlab.report.core.summary_tables import networks_table

from .synthetic import write_run


def _edit(directory: Path, **changes: Any) -> None:
    path = directory / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _metrics(directory: Path, **changes: Any) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((directory / "record.json").read_text())["metrics"]
    return metrics | {key.replace("_err", "/err"): value for key, value in changes.items()}


def _cut(directory: Path) -> None:
    path = directory / "record.json"
    path.write_text(path.read_text()[:200])


BAD = {
    "damaged": _cut,
    "newer": lambda directory: _edit(directory, version=99),
    "NaN": lambda directory: _edit(directory, metrics=_metrics(directory, test_err=float("nan"))),
    "not a number": lambda directory: _edit(directory, metrics=_metrics(directory, test_err=None)),
    "'twelve'": lambda directory: _edit(directory, metrics=_metrics(directory, test_err="twelve")),
    "not a possible training error": lambda directory: _edit(directory, metrics=_metrics(directory, train_err=250.0)),
    "'name'": lambda directory: _edit(directory, model={"depth": 20}),
    "12 of 64000": lambda directory: _edit(directory, steps=12),
    "stopped_early at step 11": lambda directory: _edit(
        directory, steps=12, stopped_early={"step": 11, "reason": "patience"}
    ),
    "{'name': 'classification'}": lambda directory: _edit(directory, task={"name": "classification"}),
    "task is of the wrong type": lambda directory: _edit(
        directory, task={"name": "x", "primary": "err", "metrics": {}}
    ),
    "val/err": lambda directory: _edit(directory, metrics=_metrics(directory, val_err=None)),
    "versions is of the wrong type": lambda directory: _edit(directory, versions=["torch"]),
    "wall_seconds is of the wrong type": lambda directory: _edit(directory, wall_seconds="an hour"),
    "'first'": lambda directory: _edit(directory, config={"data": {"fold": "first"}}),
    "'soon'": lambda directory: _edit(directory, config={"trainer": {"max_steps": "soon"}}),
    "no version": lambda directory: (directory / "record.json").write_text("[]"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_record_that_cannot_be_used_is_left_out_by_name(tmp_path: Path, reason: str) -> None:
    good = write_run(tmp_path, "plain20", 1, 1.0, 9.0)
    bad = write_run(tmp_path, "plain20", 2, 1.0, 9.0)
    BAD[reason](bad)
    found = collect([tmp_path])
    assert [run.directory for run in found.runs] == [good]
    assert [item.what for item in found.left_out] == [bad.name]
    assert reason in found.left_out[0].reason
    assert str(tmp_path) not in found.left_out[0].reason


def test_nothing_left_is_refused_with_every_reason(tmp_path: Path) -> None:
    _cut(write_run(tmp_path, "plain20", 1, 1.0, 9.0))
    with pytest.raises(InputError, match=r"No run that can be reported below .*\n.*plain20-seed1.*damaged"):
        collect([tmp_path])


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere is not a folder"):
        collect([tmp_path / "nowhere"])


def test_an_empty_folder_is_named_beside_one_with_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "full", "plain20", 1, 1.0, 9.0)
    (tmp_path / "empty").mkdir()
    found = collect([tmp_path / "full", tmp_path / "empty"])
    assert [item.what for item in found.left_out] == ["empty"]


def test_a_folder_inside_another_is_read_once(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep", "plain20", 1, 1.0, 9.0)
    assert len(collect([tmp_path, tmp_path / "sweep"]).runs) == 1


def test_a_copy_of_a_run_counts_once(tmp_path: Path) -> None:
    run = write_run(tmp_path, "plain20", 1, 1.0, 9.0)
    shutil.copytree(run, tmp_path / "z-copy")
    found = collect([tmp_path])
    assert [kept.directory for kept in found.runs] == [run]
    assert found.left_out[0].what == "z-copy"
    assert "2 records claim to be this run" in found.left_out[0].reason


def test_two_records_that_contradict_each_other_are_both_left_out(tmp_path: Path) -> None:
    other = write_run(tmp_path, "resnet20", 1, 1.0, 9.0)
    run = write_run(tmp_path, "plain20", 1, 1.0, 9.0)
    shutil.copytree(run, tmp_path / "z-copy")
    _edit(tmp_path / "z-copy", metrics=_metrics(run, test_err=3.0))
    found = collect([tmp_path])
    assert [kept.directory for kept in found.runs] == [other]
    assert {item.what for item in found.left_out} == {run.name, "z-copy"}


def test_only_the_seed_may_differ_within_a_group(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path, "plain20", seed, 1.0, 9.0)
        write_run(tmp_path, "plain20", seed, 1.0, 9.0, {"optimizer.lr": 0.05})
    groups = group_runs(collect([tmp_path]).runs)
    assert {group.label for group in groups} == {"plain20 (lr=0.05)", "plain20 (lr=0.1)"}
    assert [len(group.finished) for group in groups] == [2, 2]
    assert len(find_settings(groups)) == 2


@pytest.mark.parametrize("what", ["config", "fingerprint", "recipe"])
def test_an_edited_record_never_joins_the_others_average(tmp_path: Path, what: str) -> None:
    write_run(tmp_path, "plain20", 1, 1.0, 9.0)
    edited = write_run(tmp_path, "plain20", 2, 1.0, 9.0)
    record = json.loads((edited / "record.json").read_text())
    record["config"]["optimizer"]["lr"] = 0.3 if what == "config" else 0.1
    record["data"]["fingerprint"] = "ffffffff" if what == "fingerprint" else "0f1e2d3c"
    record["recipe"] = "00000000" if what == "recipe" else record["recipe"]
    _edit(edited, **record)
    assert [len(group.finished) for group in group_runs(collect([tmp_path]).runs)] == [1, 1]


def write_folds(root: Path, network: str, seeds: tuple[int, ...], num_folds: int = 5) -> None:
    for seed in seeds:
        for fold in range(num_folds):
            write_run(root, network, seed, 1.0, 9.0 + fold, {"data.fold": fold, "data.num_folds": num_folds})


def test_folds_and_seeds_are_averaged_together_and_the_group_says_so(tmp_path: Path) -> None:
    write_folds(tmp_path, "plain20", (1, 2, 3))
    write_folds(tmp_path, "resnet20", (1,))
    write_run(tmp_path, "resnet20", 1, 1.0, 9.0)  # without folds: another recipe
    groups = group_runs(collect([tmp_path]).runs)
    said = sorted((len(group.finished), group.averaged_over()) for group in groups)
    assert said == [(1, "1 seed"), (5, "5 folds"), (15, "5 folds x 3 seeds")]
    summary = groups[0].summary("test/err")
    assert summary is not None
    assert (summary.n, summary.mean) == (15, pytest.approx(11.0))
    table = networks_table(groups)
    assert [row[table.header.index("over")] for row in table.rows if row[0] == "plain20"] == ["5 folds x 3 seeds"]
    assert "over" not in networks_table([group for group in groups if not group.has_folds]).header


def test_a_missing_fold_is_named_and_networks_pair_by_seed_and_fold(tmp_path: Path) -> None:
    write_folds(tmp_path, "plain20", (1, 2))
    write_folds(tmp_path, "resnet20", (1, 2))
    (gone,) = [run for run in collect([tmp_path]).runs if run.name == "resnet20 seed 2 fold 3"]
    shutil.rmtree(gone.directory)
    (setting,) = find_settings(group_runs(collect([tmp_path]).runs))
    assert [(group.label, missing) for group, missing in setting.missing()] == [("resnet20", (2, 3))]
    assert setting.missing()[0][0].averaged_over() == "9 of 5 folds x 2 seeds"
    assert compare(setting, "test/err")[0].difference.n == (10, 9)


def test_where_a_run_happened_does_not_split_a_group(tmp_path: Path) -> None:
    write_run(tmp_path, "plain20", 1, 1.0, 9.0)
    write_run(tmp_path, "plain20", 2, 1.0, 9.0, {"trainer.accelerator": "gpu", "paths.data_dir": "elsewhere"})
    assert [len(group.finished) for group in group_runs(collect([tmp_path]).runs)] == [2]


def test_deep_networks_with_a_warm_up_stay_comparable(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet56", 1, 1.0, 9.0)
    write_run(tmp_path, "resnet110", 1, 1.0, 9.0, {"schedule.warmup_steps": 400})
    assert len(find_settings(group_runs(collect([tmp_path]).runs))) == 1


def test_shortcut_options_are_kinds_of_one_setting(tmp_path: Path) -> None:
    for option in "ABC":
        write_run(tmp_path, "resnet20", 1, 1.0, 9.0, {"model.shortcut": option})
    (setting,) = find_settings(group_runs(collect([tmp_path]).runs))
    assert list(setting.kinds()) == ["residual", "residual (B)", "residual (C)"]


def test_seeds_that_others_have_are_missing(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path, "plain20", seed, 1.0, 9.0)
    write_run(tmp_path, "resnet20", 2, 1.0, 9.0)
    (setting,) = find_settings(group_runs(collect([tmp_path]).runs))
    assert [(group.label, missing) for group, missing in setting.missing()] == [("resnet20", (1,))]
