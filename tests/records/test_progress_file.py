"""progress.json: what a run says is read back, and nothing else is believed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from depthlab.records.progress_file import FILE_NAME, Progress, read_progress, write_progress


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
