"""The record of a run while it grows, over several segments."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from depthlab.commands.status import _age
from depthlab.config.identity import Identity
from depthlab.records import journal
from depthlab.records.journal import Journal
from depthlab.records.record import Record, read_record

# Of records before this version: scripts of others rely on them.
OLD_KEYS = (
    *("version", "status", "name", "seed", "run", "recipe", "command", "config", "model", "data", "weights"),
    *("metrics", "steps", "wall_seconds", "images_per_second", "precision", "num_processes", "device"),
    *("num_threads", "compiled", "captured", "versions", "git", "started_at", "finished_at", "stretches"),
    *("failure", "divergence"),
)
CONFIG = {"name": "runs", "seed": 0, "trainer": {"precision": "32-true", "devices": 2, "compile": False}}


@dataclass
class Times:
    """What a stopwatch would say."""

    seconds: float
    warm_up_steps: int = 0
    warm_up_seconds: float = 0.0


class Machine:
    """A clock and library versions that a test changes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.versions = 500.0, {"torch": "1"}
        monkeypatch.setattr(journal.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(journal, "versions", lambda: dict(self.versions))
        monkeypatch.setattr(journal, "machine", lambda: {"cpu": "a"})
        monkeypatch.setattr(journal, "git_state", lambda: {"commit": "abc", "dirty": False})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def opened(directory: Path, first_step: int = 0, existing: Record | None = None, writes: bool = True) -> Journal:
    return Journal(
        directory,
        Identity("digits-net-seed0-12345678", "12345678", "87654321"),
        CONFIG,
        "python train.py",
        device="cpu: a",
        num_threads=3,
        first_step=first_step,
        images_per_step=10,
        existing=existing,
        writes=writes,
    )


def test_a_new_record_says_what_runs_where(tmp_path: Path, machine: Machine) -> None:
    opened(tmp_path).write()
    record = read_record(tmp_path)
    assert (record.status, record.name, record.seed, record.steps) == ("running", "runs", 0, 0)
    assert (record.run, record.recipe) == ("digits-net-seed0-12345678", "87654321")
    assert (record.device, record.num_threads, record.num_processes) == ("cpu: a", 3, 2)
    assert (record.precision, record.versions, record.git["commit"]) == ("32-true", {"torch": "1"}, "abc")
    assert record.config == CONFIG
    assert record.finished_at is None
    assert opened(tmp_path).changes() == []


def test_time_and_speed_add_up_over_segments(tmp_path: Path, machine: Machine) -> None:
    first = opened(tmp_path)
    machine.now += 30
    first.note(40, Times(20.0))
    second = opened(tmp_path, first_step=40, existing=read_record(tmp_path))
    machine.now += 15
    second.close("finished", 60, Times(5.0), metrics={"test/err": 8.0})
    record = read_record(tmp_path)
    assert (record.status, record.steps, record.metrics) == ("finished", 60, {"test/err": 8.0})
    assert record.wall_seconds == 45
    assert record.images_per_second == pytest.approx(600 / 25)
    assert [(part.from_step, part.to_step, part.wall_seconds) for part in record.segments] == [
        (0, 40, 30),
        (40, 60, 15),
    ]
    assert record.started_at == record.segments[0].started_at
    assert record.finished_at is not None


def test_a_clock_that_is_set_back_changes_no_duration(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_now", lambda: "2026-01-02T00:00:00+00:00")
    segment = opened(tmp_path)
    monkeypatch.setattr(journal, "_now", lambda: "2026-01-01T00:00:00+00:00")
    machine.now += 5
    segment.close("finished", 4, Times(3.0))
    record = read_record(tmp_path)
    assert (record.started_at, record.finished_at) == ("2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+00:00")
    assert (record.wall_seconds, record.segments[0].wall_seconds, record.images_per_second) == (5, 5, 40 / 3)
    os.utime(tmp_path / "record.json", (2**33, 2**33))
    assert _age(tmp_path) == "0:00:00"


def test_the_rate_leaves_out_what_is_compiled_and_captured_at_first(tmp_path: Path, machine: Machine) -> None:
    journal = opened(tmp_path)
    journal.note(50, Times(60.0, 50, 60.0))
    assert journal.record.images_per_second == pytest.approx(500 / 60)  # there is nothing else yet
    journal.close("finished", 250, Times(62.0, 50, 60.0))
    assert read_record(tmp_path).images_per_second == pytest.approx(2000 / 2)


def test_a_segment_of_an_older_version_counts_whole(tmp_path: Path, machine: Machine) -> None:
    first = opened(tmp_path)
    first.note(40, Times(20.0))
    values = read_record(tmp_path).to_dict()
    for key in ("warm_up_steps", "warm_up_seconds", "machine"):
        values["stretches"][0].pop(key, None)
    existing = Record.from_dict(values)
    second = opened(tmp_path, first_step=40, existing=existing)
    second.close("finished", 60, Times(5.0, 10, 3.0))
    assert read_record(tmp_path).images_per_second == pytest.approx(500 / 22)


def test_a_continuation_that_captures_no_more_says_so(tmp_path: Path, machine: Machine) -> None:
    first = opened(tmp_path)
    first.record_captured(True)
    first.write()
    assert opened(tmp_path, existing=read_record(tmp_path)).changes() == ["captured was True and is now False"]


def test_a_continuation_under_others_says_so(tmp_path: Path, machine: Machine) -> None:
    opened(tmp_path).write()
    machine.versions["torch"] = "2"
    changes = opened(tmp_path, existing=read_record(tmp_path)).changes()
    assert changes == ["versions was {'torch': '1'} and is now {'torch': '2'}"]


@pytest.mark.parametrize("kind", ["FIFO", "link elsewhere", "not text", "the same", "another"])
def test_a_difference_that_lies_there_is_opened_only_where_it_is_a_runs(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(journal, "git_state", lambda: {"commit": "abc", "dirty": True})
    monkeypatch.setattr(journal, "source_diff", lambda: "+ new\n")
    run, private = tmp_path / "run", tmp_path / "private"
    run.mkdir()
    private.write_text("+ new\n")
    path = run / "code.diff"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "link elsewhere":
        path.symlink_to(private)
    else:
        path.write_bytes({"not text": b"\xff", "the same": b"+ new\n", "another": b"+ old\n"}[kind])
    segment = opened(run, first_step=7)
    segment.record_code({"fingerprint": "1"})
    name = "code.diff" if kind == "the same" else "code-from-step-00000007.diff"
    assert segment.record.code == {"fingerprint": "1", "diff": name}
    assert (run / name).read_text() == private.read_text() == "+ new\n"


def test_other_processes_than_the_first_write_nothing(tmp_path: Path, machine: Machine) -> None:
    opened(tmp_path, writes=False).close("finished", 60, Times(1.0))
    assert list(tmp_path.iterdir()) == []


def test_the_file_keeps_its_field_names_and_says_null_while_nothing_is_known(tmp_path: Path, machine: Machine) -> None:
    opened(tmp_path).write()
    content = json.loads((tmp_path / "record.json").read_text())
    assert set(OLD_KEYS) <= set(content)
    assert content["finished_at"] is content["failure"] is content["weights"] is content["images_per_second"] is None
    assert {"from_step", "to_step", "training_seconds", "wall_seconds", "git"} <= set(content["stretches"][0])
    assert content["machine"] == content["stretches"][0]["machine"] == {"cpu": "a"}


def test_what_others_record_lands_in_the_record_and_in_the_segment(tmp_path: Path, machine: Machine) -> None:
    journal = opened(tmp_path)
    journal.record_code({"fingerprint": "c0de"})
    journal.update(extensions={"mylab": "1.0"}, task={"name": "t", "primary": "mse", "metrics": {"mse": {}}})
    early = {"step": 7, "reason": "EarlyStopping"}
    journal.close("finished", 7, Times(1.0), metrics={}, stopped_early=early, weights_measured="last")
    record = read_record(tmp_path)
    assert record.code == record.segments[0].code == {"fingerprint": "c0de"}
    assert (record.extensions, record.stopped_early, record.weights_measured) == ({"mylab": "1.0"}, early, "last")
    assert record.task is not None and record.task["primary"] == "mse"


def test_a_continuation_keeps_what_a_newer_version_wrote(tmp_path: Path, machine: Machine) -> None:
    opened(tmp_path).write()
    newer = Record.from_dict({**read_record(tmp_path).to_dict(), "later": [1]})
    opened(tmp_path, existing=newer).write()
    assert read_record(tmp_path)["later"] == [1]
