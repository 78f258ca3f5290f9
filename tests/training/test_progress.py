"""What a person and a watching process see of a run's progress, and what is believed of progress.json."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from depthlab.records.progress_file import FILE_NAME, Progress, read_progress, write_progress
from depthlab.training.callbacks import progress
from depthlab.training.callbacks.metric_logger import MetricLogger
from depthlab.training.callbacks.progress import ProgressView, clock

from .small import classifier, plan, trainer

ERROR = ("err", "error", "%")


def test_speed_and_time_left_follow_from_the_steps_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    planned = plan(max_steps=100)
    module, curves = classifier(), MetricLogger(planned, 1)
    curves.latest = {"train/loss": 1.5, "train/err": 42.0}
    view = ProgressView("net seed 1", tmp_path, planned, curves, ERROR)
    module.step = 20  # a continuation
    view.on_train_start(trainer(), module)
    for step, seconds in [(21, 500.0), (22, 2.0), (23, 2.0), (40, 34.0)]:
        now += seconds
        module.step = step
        view.on_train_batch_end(trainer(), module, None, None, 0)
    view.on_train_end(trainer(), module)
    written = json.loads((tmp_path / "progress.json").read_text())
    assert (written["step"], written["max_steps"], written["train_err"]) == (40, 100, 42.0)
    assert written["images_per_second"] == pytest.approx(5.0)  # a step of 10 images in 2 seconds
    assert written["seconds_left"] == pytest.approx(120.0)
    assert "step 40/100  loss 1.500  error 42.00 %" in capsys.readouterr().out


def test_the_file_is_written_each_second_and_a_line_each_half_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    module = classifier()
    planned = plan(max_steps=999)
    view = ProgressView("net", tmp_path, planned, MetricLogger(planned, 1), ERROR)
    view.on_train_start(trainer(), module)
    written = []
    for module.step in range(1, 161):
        now += 0.25
        view.on_train_batch_end(trainer(), module, None, None, 0)
        if (tmp_path / "progress.json").exists():
            written.append(json.loads((tmp_path / "progress.json").read_text())["step"])
    assert sorted(set(written)) == list(range(2, 161, 4))
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["120/999"]


def test_a_metric_without_a_unit_is_shown_to_four_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PRINT_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(progress, "SHOW_EVERY_SECONDS", -1.0)
    module, curves = classifier(), MetricLogger(plan(), 1)
    curves.latest = {"train/loss": 1.5, "train/mse": 0.0123456}
    view = ProgressView("net", tmp_path, plan(), curves, ("mse", "mean squared error", ""))
    view.on_train_start(trainer(), module)
    for module.step in (1, 2):
        view.on_train_batch_end(trainer(), module, None, None, 0)
    assert "loss 1.500  mean squared error 0.01235  lr" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-:--:--"), (0, "0:00:00"), (59.6, "0:01:00"), (312, "0:05:12"), (4000, "1:06:40")]
)
def test_clock_shows_hours_minutes_and_seconds(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    said = Progress(5, 10, 0.25, "train R²", "", 100.0, 3.5)
    write_progress(tmp_path, said)
    assert read_progress(tmp_path) == said
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_file_of_an_older_version_is_of_classification(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps({"step": 5, "max_steps": 10, "train_err": 12.345}))
    progress = read_progress(tmp_path)
    assert progress is not None
    assert (progress.title, progress.show(), progress.seconds_left) == ("train error", "12.35 %", None)


def test_the_field_of_older_readers_is_kept(tmp_path: Path) -> None:
    write_progress(tmp_path, Progress(5, 10, 12.5))
    assert json.loads((tmp_path / FILE_NAME).read_text())["train_err"] == 12.5


def test_what_was_said_before_a_time_is_not_news(tmp_path: Path) -> None:
    write_progress(tmp_path, Progress(5, 10))
    os.utime(tmp_path / FILE_NAME, (100, 100))
    assert read_progress(tmp_path, since=99) is not None
    assert read_progress(tmp_path, since=101) is None


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"7", b"\xff", b"[" * 60_000, b'{"step": 5}', b'{"step": "5", "max_steps": 9}'),
        *(b'{"step": -1, "max_steps": 9}', b'{"step": NaN, "max_steps": 9}', b'{"step": 1e400, "max_steps": 9}'),
    ],
)
def test_what_is_no_progress_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert read_progress(tmp_path) is None


@pytest.mark.parametrize("odd", ["NaN", "1e400", "-1", '"long"', "[]", "1e200", "true"])
def test_odd_times_are_not_known(tmp_path: Path, odd: str) -> None:
    (tmp_path / FILE_NAME).write_text(f'{{"step": 5, "max_steps": 9, "seconds_left": {odd}, "title": {odd}}}')
    progress = read_progress(tmp_path)
    assert progress is not None
    assert progress.seconds_left is None


def test_a_fifo_or_a_link_elsewhere_says_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    os.mkfifo(run / FILE_NAME)
    assert read_progress(run) is None
    (run / FILE_NAME).unlink()
    write_progress(tmp_path, Progress(5, 10))
    (run / FILE_NAME).symlink_to(tmp_path / FILE_NAME)
    assert read_progress(run) is None
