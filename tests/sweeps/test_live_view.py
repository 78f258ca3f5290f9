"""What a person sees of a sweep while it runs and afterwards, and what finished runs tell of time and disk."""

import io
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from depthlab.runs import exits
from depthlab.sweeps import live_view as view
from depthlab.sweeps.devices import Lease
from depthlab.sweeps.job import Entry, State, labels
from depthlab.sweeps.live_view import Lines, LiveTable, jobs_table, readers_may_leave, remaining, summary
from depthlab.sweeps.runtime_estimate import Estimates, RunTimes, read_estimates, sweep_seconds

from ..report.synthetic import write_run

NOTHING = Estimates({}, {})


def entry(idx: int, state: State, directory: Path = Path("nowhere"), **more: object) -> Entry:
    config = SimpleNamespace(
        trainer=SimpleNamespace(max_steps=100, accumulate_grad_batches=1),
        data=SimpleNamespace(name="digits", batch_size=10),
        model=SimpleNamespace(name="m"),
    )
    job = SimpleNamespace(
        idx=idx, label=f"m seed {idx}", directory=directory, config=config, accelerator="cpu", num_devices=1
    )
    return Entry(job, state, **more)


def running(directory: Path) -> Entry:
    said = {"step": 40, "max_steps": 100, "train_err": 31.25, "seconds_left": 60.0}
    (directory / "progress.json").write_text(json.dumps(said))
    began = {"started_at": time.time() - 40, "started_seconds": time.monotonic() - 40}
    return entry(0, State.RUNNING, directory, lease=Lease("gpu", ("3",), 1), **began)


def text_of(drawn: object) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(drawn)
    return console.file.getvalue()


def test_the_table_shows_what_runs_waits_and_failed(tmp_path):
    failed = entry(1, State.FAILED, reason="exit code 3", tail=["first", "MemoryError: too big"])
    shown = text_of(jobs_table([entry(2, State.WAITING), running(tmp_path), failed], rows=9))
    lines = [line.split() for line in shown.splitlines()]
    assert [line[2] for line in lines[1:]] == ["0", "1", "2"]
    assert "exit code 3 | MemoryError: too big" in shown
    for cell in ("gpu 3", "40 / 100", "31.25 %", "0:01:00"):
        assert cell in shown


def test_a_long_queue_is_cut_to_the_height_of_the_terminal():
    shown = text_of(jobs_table([entry(idx, State.WAITING) for idx in range(50)], rows=5))
    assert len(shown.splitlines()) == 7
    assert "and 45 more" in shown


def test_what_runs_is_shown_however_many_have_failed(tmp_path):
    failed = [entry(idx, State.FAILED, reason="exit code 3") for idx in range(1, 50)]
    assert "40 / 100" in text_of(jobs_table([*failed, running(tmp_path)], rows=5))


def test_progress_of_an_earlier_attempt_is_not_shown(tmp_path):
    stale = running(tmp_path)
    stale.started_at = time.time() + 5
    assert "40 / 100" not in text_of(jobs_table([stale], rows=5))


def test_time_left_counts_running_and_waiting_jobs_over_the_places(tmp_path):
    entries = [running(tmp_path), *(entry(idx, State.WAITING) for idx in (1, 2, 3))]
    # The running one takes 40 + 60 seconds, which is what the three others are thought to take too.
    assert remaining(NOTHING, 2)(entries) == pytest.approx((60 + 300) / 2, abs=1)
    known = Estimates({("digits", "m", "cpu"): RunTimes(0.2, 5.0)}, {})
    assert remaining(known, 2)(entries) == pytest.approx((60 + 3 * 205) / 2, abs=1)
    entries[1].steps_before = 75
    assert remaining(known, 2)(entries) == pytest.approx((60 + 2 * 205 + 55) / 2, abs=1)


def test_time_left_is_not_known_before_any_job_says_something():
    assert remaining(NOTHING, 2)([entry(1, State.WAITING)]) is None
    assert summary([entry(1, State.WAITING)], None) == "sweep: 1 waiting; time left -"


def test_a_sweep_takes_no_less_than_its_longest_job():
    assert sweep_seconds([10.0, 100.0], [1, 1], num_places=8) == 100.0


def test_a_job_over_two_devices_counts_twice():
    assert sweep_seconds([10.0, 10.0, 10.0, 10.0], [2, 2, 2, 2], num_places=4) == 20.0


def test_without_a_terminal_a_line_about_everything_comes_now_and_then(tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), width=200)
    lines = Lines(console, remaining(NOTHING, 1), 1)
    lines.refresh([running(tmp_path)])
    assert console.file.getvalue() == ""
    monkeypatch.setattr(view, "LINE_EVERY_SECONDS", 0.0)
    lines.refresh([running(tmp_path)])
    assert "m seed 0 step 40/100, train error 31.25 %, 0:01:00 left" in console.file.getvalue()


def test_a_reader_that_leaves_is_no_reason_to_stop_and_a_signal_is():
    console = Console(file=io.StringIO())
    for left in (BrokenPipeError(), SystemExit(1)):
        console.quiet = False
        with readers_may_leave(console):
            raise left
        assert console.quiet
    with pytest.raises(SystemExit), readers_may_leave(console):
        raise SystemExit(exits.CONTINUE_ME)


def test_the_live_table_goes_and_the_lines_stay(tmp_path):
    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    table = LiveTable(console, remaining(NOTHING, 1), 1)
    table.refresh([running(tmp_path)])
    table.ended(entry(0, State.FINISHED, tail=["m seed 0: test error 8.31 %"]))
    table.close()
    assert "40 / 100" in console.file.getvalue()
    assert "[1/1] m seed 0: test error 8.31 %" in console.file.getvalue()


def test_labels_name_only_what_differs():
    overrides = [["model=a", "seed=1", "data=digits", "+x.y=1"], ["model=a", "seed=1", "data=digits"]]
    assert labels(overrides, ["a seed 1"] * 2) == ["a seed 1 x.y=1", "a seed 1"]
    folds = [["model=a", f"data.fold={fold}"] for fold in range(2)]
    assert labels(folds, ["a seed 1 fold 0", "a seed 1 fold 1"]) == ["a seed 1 fold 0", "a seed 1 fold 1"]


PART = {"from_step": 0, "to_step": 64_000, "wall_seconds": 50.0}
ODD = {
    "NaN": {"stretches": [{**PART, "training_seconds": float("nan")}]},
    "infinite": {"stretches": [{**PART, "training_seconds": float("inf")}]},
    "huge": {"stretches": [{**PART, "training_seconds": 10**400}]},
    "text": {"stretches": [{**PART, "training_seconds": "long"}]},
    "parameters in words": {"model": {"name": "plain20", "num_params": "many"}},
    "parameters without end": {"model": {"name": "plain20", "num_params": 10**40}},
    "a model of another kind": {"model": {"name": ["plain20"], "num_params": 7}},
    "no batch": {"config": {"data": {"batch_size": 0}, "trainer": {"accumulate_grad_batches": 1}}},
    "a batch in words": {"config": {"data": {"batch_size": "big"}, "trainer": {"accumulate_grad_batches": 1}}},
    "no steps": {"steps": 0},
}


def finished(root, seed, **record):
    times = {"stretches": [{**PART, "training_seconds": 40.0}], "wall_seconds": 50.0}
    return write_run(root, "plain20", seed, 1.0, 9.0, points=0, record={**times, **record})


def test_the_pace_is_that_of_the_steps_that_were_taken(tmp_path):
    finished(tmp_path, 1)
    known = read_estimates(tmp_path)
    (pace,) = known.paces.values()
    assert pace.image_seconds == 40.0 / (64_000 * 128)
    assert pace.other_seconds == 10.0
    assert known.num_params == {"plain20": 97078 * 3 - 21512}


@pytest.mark.parametrize("odd", list(ODD))
def test_one_bad_neighbour_changes_no_estimate(tmp_path, odd):
    finished(tmp_path, 1)
    before = read_estimates(tmp_path)
    bad = finished(tmp_path, 2) / "record.json"
    bad.write_text(json.dumps({**json.loads(bad.read_text()), **ODD[odd]}))
    assert read_estimates(tmp_path) == before


@pytest.mark.parametrize("kind", ["fifo", "link", "not UTF-8"])
def test_a_neighbour_that_cannot_be_read_blocks_nothing(tmp_path, kind):
    finished(tmp_path / "logs", 1)
    before = read_estimates(tmp_path / "logs")
    bad = finished(tmp_path / "logs", 2) / "record.json"
    (tmp_path / "other").write_bytes(bad.read_bytes())
    bad.unlink()
    if kind == "fifo":
        os.mkfifo(bad)
    elif kind == "link":
        bad.symlink_to(tmp_path / "other")
    else:
        bad.write_bytes(b"\xff\xfe")
    begun = time.monotonic()
    assert read_estimates(tmp_path / "logs") == before
    assert time.monotonic() - begun < 5
