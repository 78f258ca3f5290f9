"""depthlab status: every run in a line, whatever its files hold."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from depthlab.commands.status import main
from depthlab.records.publishing import publish

from ..report.synthetic import write_run
from .test_record import REGRESSION

STATUS_SECONDS = 10


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def status(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    begun = time.monotonic()
    assert main([str(folder), *options]) == 0
    assert time.monotonic() - begun < STATUS_SECONDS
    return capsys.readouterr().out


def test_runs_are_listed_with_their_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "plain20", 1, 1.25, 9.5, points=0)
    write_run(tmp_path, "plain20", 2, 1.0, 9.0, points=0, record={"stopped_early": {"step": 7, "reason": "x"}})
    shown = status(tmp_path, capsys)
    assert all(word in shown for word in ("train error", "test error", "1.25 %", "9.50 %", "finished early"))


def test_another_task_is_listed_by_its_own_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"task": REGRESSION, "metrics": {"train/r2": 0.98765, "test/r2": 0.91234}}
    write_run(tmp_path / "a", "plain20", 1, 1.0, 9.0, points=0, record=other)
    shown = status(tmp_path / "a", capsys)
    assert "test R²" in shown and "0.9123" in shown and "%" not in shown
    write_run(tmp_path / "b", "plain20", 1, 1.0, 9.0, points=0)
    both = status(tmp_path, capsys)
    assert "test R²" not in both and "9.00 %" in both and "0.9123" in both


def test_published_runs_are_listed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "logs", "plain20", 1, 1.25, 9.5, points=2)
    publish(tmp_path / "logs", tmp_path / "results" / "x")
    shown = status(tmp_path / "results", capsys)
    assert run.name in "".join(shown.split()) and "9.50 %" in shown


@pytest.mark.parametrize("kind", ["fifo", "link", "huge", "not UTF-8", "deep", "odd number", "escape"])
def test_one_bad_record_costs_its_own_line_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    write_run(tmp_path / "logs", "plain20", 1, 1.25, 9.5, points=0)
    bad = write_run(tmp_path / "logs", "resnet20", 1, 1.0, 9.0, points=0) / "record.json"
    spoil(bad, kind, tmp_path)
    shown = status(tmp_path / "logs", capsys)
    assert "9.50 %" in shown
    assert "damaged" in shown or kind == "escape"
    assert "\x1b" not in shown


def spoil(path: Path, kind: str, elsewhere: Path) -> None:
    record: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (elsewhere / "other").write_text(json.dumps(record))
        path.symlink_to(elsewhere / "other")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**40)
    elif kind == "odd number":
        path.write_text(json.dumps({**record, "wall_seconds": float("nan")}))
    elif kind == "escape":
        path.write_text(
            json.dumps({**record, "metrics": {}, "task": {**REGRESSION, "metrics": {"r2": {"unit": "\x1b]"}}}})
        )
    else:
        path.write_bytes({"not UTF-8": b"\xff\xfe{", "deep": b"[" * 100_000}[kind])


def test_checkpoints_elsewhere_are_not_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=0)
    precious = tmp_path / "elsewhere" / "step-00000001.ckpt"
    precious.parent.mkdir()
    precious.touch()
    (run / "checkpoints").symlink_to(precious.parent)
    status(tmp_path / "logs", capsys, "--remove-checkpoints")
    assert precious.exists()
