"""record.json: what is written comes back, and nothing else is taken for a record."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from depthlab.errors import InputError
from depthlab.records.metrics import common_metric, describe
from depthlab.records.record import REQUIRED, STATUSES, VERSION, Record, find_records, read_record, write_record

RECORD: dict[str, Any] = {
    "status": "finished",
    "name": "runs",
    "seed": 0,
    "command": "python train.py",
    "config": {"optimizer": {"lr": 0.1}},
    "model": {},
    "data": {},
    "metrics": {"test/err": 8.310000000000001, "val/err": None},
    "steps": 64_000,
}


def put(directory: Path, content: bytes | str | dict[str, Any]) -> None:
    if isinstance(content, dict):
        content = json.dumps(content)
    (directory / "record.json").write_bytes(content.encode() if isinstance(content, str) else content)


def test_what_is_written_comes_back_with_its_version(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path).to_dict() == {"version": VERSION, **RECORD}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_nan_and_infinity_become_null_at_any_depth(tmp_path: Path) -> None:
    values = {"a": math.nan, "b": [math.inf, 1.5, (-math.inf,)], "c": {"d": math.nan}}
    write_record(tmp_path, {**RECORD, "divergence": values, "metrics": {"test/err": math.nan}})
    record = read_record(tmp_path)
    assert record.divergence == {"a": None, "b": [None, 1.5, [None]], "c": {"d": None}}
    assert record.metrics == {"test/err": None}
    assert "NaN" not in (tmp_path / "record.json").read_text()


def test_a_record_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    with pytest.raises(TypeError):
        write_record(tmp_path, {**RECORD, "device": object()})
    assert read_record(tmp_path).steps == 64_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged"),
        ('{"version": 1, "status": "fin', "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        ("[]", "no version"),
        ("7", "no version"),
        ("{}", "no version"),
        ({**RECORD, "version": "1"}, "no version"),
        ({**RECORD, "version": VERSION + 1}, rf"version {VERSION + 1}; .* up to {VERSION}\. Use a newer"),
        ({**RECORD, "version": VERSION, "status": "done"}, "'done' is none of running, finished, failed, diverged"),
        ({**RECORD, "version": VERSION, "seed": True}, "'seed'"),
        ({**RECORD, "version": VERSION, "metrics": []}, "'metrics'"),
        ({**RECORD, "version": VERSION, "metrics": {"test/err": "abc"}}, "'test/err' is 'abc', which is no number"),
        ({**RECORD, "version": VERSION, "config": {"trainer": "abc"}}, "'trainer' of its configuration"),
    ],
)
def test_a_file_that_is_no_whole_record_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    put(tmp_path, content)
    with pytest.raises(InputError, match=message):
        read_record(tmp_path)


@pytest.mark.parametrize("key", list(REQUIRED))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    put(tmp_path, {"version": VERSION, **{name: value for name, value in RECORD.items() if name != key}})
    with pytest.raises(InputError, match=f"{key!r} is missing"):
        read_record(tmp_path)


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_is_accepted(tmp_path: Path, status: str) -> None:
    write_record(tmp_path, {**RECORD, "status": status})
    assert read_record(tmp_path).status == status


def test_a_record_cut_anywhere_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    whole = (tmp_path / "record.json").read_bytes()
    for length in range(0, len(whole) - 2, 7):
        put(tmp_path, whole[:length])
        with pytest.raises(InputError, match="damaged"):
            read_record(tmp_path)


SEGMENT = {"from_step": 0, "to_step": 5, "training_seconds": 1.0, "wall_seconds": 2.0}
ODD: dict[str, Any] = {
    "NaN seconds": {"stretches": [{**SEGMENT, "training_seconds": math.nan}]},
    "huge seconds": {"stretches": [{**SEGMENT, "training_seconds": 10**400}]},
    "negative seconds": {"stretches": [{**SEGMENT, "wall_seconds": -1}]},
    "null seconds": {"stretches": [{**SEGMENT, "wall_seconds": None}]},
    "a segment that is none": {"stretches": [7]},
    "segments that are none": {"stretches": {"a": 1}},
    "text for a number": {"model": {"num_params": "many"}},
    "a huge number": {"model": {"num_params": 10**30}},
    "infinite time": {"wall_seconds": math.inf},
    "text for time": {"wall_seconds": "long"},
    "a negative step": {"steps": -1},
    "a huge metric": {"metrics": {"test/err": 10**400}},
    "a git state that is none": {"git": "abc"},
    "a version that is none": {"versions": {"torch": 2}},
    "a task without metrics": {"task": {"name": "t", "primary": "err"}},
    "a primary metric that is none": {"task": {"name": "t", "primary": [], "metrics": {"err": {}}}},
    "a unit that is none": {"task": {"name": "t", "primary": "err", "metrics": {"err": {"unit": 7}}}},
}


@pytest.mark.parametrize("odd", list(ODD))
def test_odd_values_are_refused_before_anything_is_computed_from_them(tmp_path: Path, odd: str) -> None:
    put(tmp_path, {**RECORD, "version": VERSION, **ODD[odd]})
    with pytest.raises(InputError, match="not a whole record"):
        read_record(tmp_path)


def test_a_record_of_a_newer_or_older_program_survives_a_round_trip(tmp_path: Path) -> None:
    values = {"later": {"x": [1]}, **RECORD, "version": VERSION, "failure": None, "wall_seconds": 45}
    values["stretches"] = [{"to_step": 5, "from_step": 0, "odd": True}]
    put(tmp_path, values)
    written = read_record(tmp_path).to_dict()
    assert json.dumps(written) == json.dumps(values)  # the order of keys and the kinds of numbers too
    assert Record.from_dict(written).to_dict() == values


def test_a_field_that_is_set_later_is_written(tmp_path: Path) -> None:
    write_record(tmp_path, replace(Record.from_dict(RECORD), steps=7, weights_measured="last"))
    assert read_record(tmp_path).to_dict() == {"version": VERSION, **RECORD, "steps": 7, "weights_measured": "last"}


def test_a_record_is_read_like_a_dictionary_too() -> None:
    record = Record.from_dict({**RECORD, "later": 1, "stretches": [SEGMENT]})
    assert (record["steps"], record["later"], record["stretches"]) == (64_000, 1, [SEGMENT])
    assert (record.get("git"), record.get("git", 3), record.get("later")) == (None, 3, 1)
    with pytest.raises(KeyError, match="nothing"):
        record["nothing"]


def test_files_that_would_block_or_lead_elsewhere_are_refused_at_once(tmp_path: Path) -> None:
    run, secret = tmp_path / "run", tmp_path / "secret"
    run.mkdir()
    os.mkfifo(run / "record.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_record(run)
    (run / "record.json").unlink()
    put(tmp_path, {**RECORD, "version": VERSION})
    (tmp_path / "record.json").rename(secret)
    (run / "record.json").symlink_to(secret)
    with pytest.raises(InputError, match="a link that leads out"):
        read_record(run)
    (run / "record.json").unlink()
    (run / "record.json").symlink_to("record.json")
    with pytest.raises(InputError):
        read_record(run)


def test_a_record_of_many_megabytes_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "record.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="too large"):
        read_record(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 5000, None], ids=["deep", "long", "a folder"])
def test_whatever_else_lies_there_is_refused_too(tmp_path: Path, content: str | None) -> None:
    if content is None:
        (tmp_path / "record.json").mkdir()
    else:
        put(tmp_path, content)
    with pytest.raises(InputError):
        read_record(tmp_path)


def test_a_directory_without_a_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a run directory: it holds no record\.json"):
        read_record(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not a directory"):
        read_record(tmp_path / "file")


def test_records_are_found_in_order_and_not_where_they_were_set_aside(tmp_path: Path) -> None:
    for name in ("b/run-2", "b/run-1", "a/run", "b/.aside/run-1", ".trash/run"):
        (tmp_path / name).mkdir(parents=True)
        write_record(tmp_path / name, RECORD)
    assert [str(path.relative_to(tmp_path)) for path in find_records(tmp_path)] == ["a/run", "b/run-1", "b/run-2"]
    assert list(find_records(tmp_path / "a/run")) == [tmp_path / "a/run"]


def test_a_hidden_folder_above_the_root_hides_nothing(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "logs"
    (root / "run").mkdir(parents=True)
    write_record(root / "run", RECORD)
    assert list(find_records(root)) == [root / "run"]


REGRESSION: dict[str, Any] = {
    "name": "regression",
    "primary": "r2",
    "metrics": {"r2": {"title": "R²", "unit": "", "better": "higher", "max": 1.0, "chance": 0.0}, "loss": {}},
}


def record(task: dict[str, Any] | None) -> Record:
    return Record.from_dict({**RECORD, **({"task": task} if task else {})})


def test_a_record_without_a_task_is_of_classification() -> None:
    task = describe(record(None))
    assert (task.name, task.primary, set(task.metrics)) == ("classification", "err", {"err", "loss"})
    assert (task.main.key("test"), task.main.show(8.3149), task.main.show(None)) == ("test/err", "8.31 %", "-")
    assert (task.main.max, task.main.better, task.main.header("test")) == (100.0, "lower", "test error %")


def test_a_task_says_how_its_metrics_are_read() -> None:
    task = describe(record(REGRESSION))
    assert (task.main.key("val"), task.main.show(0.912345), task.main.header("val")) == ("val/r2", "0.9123", "val R²")
    assert (task.main.better, task.main.max, task.main.chance) == ("higher", 1.0, 0.0)
    assert (task.metrics["loss"].title, task.metrics["loss"].better) == ("loss", "lower")


def test_records_share_a_metric_where_it_is_shown_alike() -> None:
    with_chance = {**describe_as_file(), "name": "classification"}
    shared = common_metric([record(None), record(with_chance)])
    assert shared is not None and shared.title == "error"
    assert common_metric([record(None), record(REGRESSION)]) is None
    assert common_metric([]) is None


def describe_as_file() -> dict[str, Any]:
    return {"primary": "err", "metrics": {"err": {"title": "error", "unit": "%", "chance": 90.0}}}
