"""A few trials of the scripts that kill and stop runs and sweeps, and that they would see a difference."""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from depthlab.records.arrays import array_names, load_arrays
from depthlab.records.checkpoints import list_checkpoints, save_checkpoint
from depthlab.runs.run import run

from .conftest import Command, Compose, load_script
from .whole_runs import SMALL

MOMENTS, STARTS, RUNS, ATTEMPTS, TRIALS = (
    load_script(f"scripts/{name}.py")
    for name in ("moments", "trial_starts", "trial_runs", "trial_attempts", "kill_trials")
)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize(
    "words", [("4", "--only", "ordinary,publishing"), ("4", "--stop", "--only", "chunks")], ids=["killed", "stopped"]
)
def test_runs_that_are_struck_end_like_whole_ones(command: Command, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = command("scripts/kill_trials.py", *words, "--seed", "1", "--json", str(tmp_path / "found.json"), fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 identical" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())["trials"]
    assert all(trial["phases"] for trial in found)
    codes = {code for trial in found for code in trial["codes"]}
    assert codes <= ({0, 75} if "--stop" in words else {-signal.SIGKILL})


def test_trials_go_on_where_they_stopped_and_a_wrong_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    def try_out(bench: Any, trial: Any) -> Any:
        made.append(trial.idx)
        is_wrong = trial.idx == 4
        details = ("weights differ",) if is_wrong else ()
        outcome = "wrong" if is_wrong else "identical"
        return TRIALS.Verdict(trial.idx, trial.variant, ("steps",), (-9,), outcome, details, 1.0)

    monkeypatch.setattr(TRIALS, "Bench", lambda folder: None)
    monkeypatch.setattr(TRIALS, "try_out", try_out)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    words = ["--json", str(tmp_path / "found.json"), "--resume"]
    for number, code in ((3, 0), (4, 0), (6, 1)):
        monkeypatch.setattr(sys, "argv", ["kill_trials.py", str(number), *words])
        assert TRIALS.main() == code
    assert made == list(range(6))
    said = capsys.readouterr().out
    assert "4 of 4 identical" in said
    assert "weights differ" in said
    assert "5 of 6 identical" in said


@pytest.mark.slow
@on_linux
def test_a_killed_sweep_ends_whole(command: Command) -> None:
    done = command("scripts/kill_sweep.py", "2", "--seed", "1", "--runs", "3", "--steps", "120", fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 runs finished after 2 kills" in done.stdout


def test_the_trials_follow_from_the_seed_and_cover_every_phase_and_signal() -> None:
    first, again, other = ([TRIALS.draw(idx, seed, False, TRIALS.KILLED) for idx in range(300)] for seed in (1, 1, 2))
    assert first == again != other
    assert {trial.variant for trial in first} == set(TRIALS.KILLED)
    moments = [moment for trial in first for moment in trial.moments]
    assert {moment.phase for moment in moments} == set(MOMENTS.PHASES)
    assert {moment.kind for moment in moments} == set(MOMENTS.KINDS)
    assert {moment.number for moment in moments} == {signal.SIGKILL}
    stops = [TRIALS.draw(idx, 1, True, TRIALS.STOPPED) for idx in range(300)]
    assert {moment.number for trial in stops for moment in trial.moments} == set(TRIALS.STOPS)


@pytest.fixture
def forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Forks of this process, which may have threads: what is tried here uses none."""
    monkeypatch.setattr(STARTS, "_import", lambda names: None)
    handler = signal.getsignal(signal.SIGINT)
    yield STARTS.Forks(tmp_path)
    signal.signal(signal.SIGINT, handler)
    ctypes.CDLL(None).prctl(STARTS.PR_SET_CHILD_SUBREAPER, 0)
    gc.unfreeze()


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("kind", ["call", "file"])
def test_a_process_is_struck_in_the_phase_that_was_drawn(forks: Any, tmp_path: Path, kind: str) -> None:
    """In the middle of writing ten files."""

    def write(watch: Any) -> int:
        with watch.during("checkpoint writing"):
            for number in range(10):
                (tmp_path / f"{number}").write_text("text")
        return 0

    forks.measure("writing", write)
    for path in tmp_path.glob("?"):
        path.unlink()
    moment = MOMENTS.Moment(signal.SIGKILL, "checkpoint writing", kind, 0.5)
    ended = forks.start("writing", write, moment)
    assert (ended.code, ended.struck_in, ended.stray) == (-signal.SIGKILL, "checkpoint writing", 0)
    assert 3 <= len(list(tmp_path.glob("?"))) <= 7


@on_linux
def test_a_process_that_is_left_is_found_and_ended(forks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STARTS, "SECONDS_TO_DIE", 0.3)
    pid_file = tmp_path / "pid"

    def leave(watch: Any) -> int:
        left = subprocess.Popen(["sleep", "60"], start_new_session=True)
        pid_file.write_text(str(left.pid))
        return 0

    assert forks.start("leaving", leave).stray == 1
    assert not Path(f"/proc/{pid_file.read_text()}").exists()


def test_wrong_exit_codes_lost_records_and_lost_steps_are_seen(compose_config: Compose, tmp_path: Path) -> None:
    directory = run(compose_config(*SMALL, "checkpoint.every_steps=6"), "").directory
    attempt = ATTEMPTS.Attempt.__new__(ATTEMPTS.Attempt)
    attempt.logs, attempt.wrong = tmp_path / "logs", []
    stop = MOMENTS.Moment(signal.SIGTERM, "steps", "call", 0.5)
    record = json.loads((directory / "record.json").read_text())
    (directory / "record.json").write_text(json.dumps({**record, "status": "running"}))
    cases = {
        "exit code 0": (STARTS.Start(0, "", "steps", 12, 0, False), (0, 0, 0)),
        "step 14 was taken": (STARTS.Start(75, "", "steps", 14, 0, False), (0, 0, 0)),
        "were (18, 12, 1)": (STARTS.Start(75, "", "steps", 12, 0, False), (18, 12, 1)),
        "": (STARTS.Start(75, "", "steps", 12, 0, False), (12, 6, 1)),
    }
    for expected, (ended, before) in cases.items():
        attempt.wrong.clear()
        attempt._judge(stop, ended, before)
        assert len(attempt.wrong) == bool(expected), attempt.wrong
        assert expected in "".join(attempt.wrong)
    (directory / "record.json").write_text("{")
    attempt._judge(stop, STARTS.Start(75, "", "steps", 12, 0, False), (0, 0, 0))
    assert "the record was lost" in attempt.wrong[-1]


def test_a_run_equals_itself_and_any_other_weight_point_or_metric_is_a_difference(compose_config: Compose) -> None:
    whole, other = (run(compose_config(*SMALL, f"name={name}"), "").directory for name in ("a", "b"))
    assert RUNS.differences(other, whole) == ()
    curve = (other / "metrics.csv").read_bytes()
    (other / "metrics.csv").write_bytes(curve + curve.splitlines(keepends=True)[-1])
    assert RUNS.differences(other, whole) == ("metrics.csv",)
    (other / "metrics.csv").write_bytes(curve)
    assert array_names(other)
    change_an_array(other / "diagnostics" / f"{array_names(other)[0]}.npz", load_arrays(other, array_names(other)[0]))
    assert RUNS.differences(other, whole) == ("diagnostics",)
    change_a_weight(list_checkpoints(other)[0])
    assert RUNS.differences(other, whole) == ("diagnostics", "network")
    (other / ".record.json.1.tmp").write_text("")
    assert "left .record.json.1.tmp" in RUNS.differences(other, whole)
    record = (other / "record.json").read_text()
    (other / "record.json").write_text(record.replace('"train/loss"', '"train/lost"'))
    assert "metrics" in RUNS.differences(other, whole)


def change_an_array(path: Path, arrays: dict[str, Any]) -> None:
    import numpy as np

    name, array = next((name, array) for name, array in arrays.items() if array.size and array.dtype.kind == "f")
    np.savez(path, **{**arrays, name: np.nextafter(array, 1e9)})


def change_a_weight(path: Path) -> None:
    content: dict[str, Any] = copy.deepcopy(torch.load(path, weights_only=True))
    weight = content["network"]["fc.weight"].view(-1)
    weight[0] = torch.nextafter(weight[0], weight[0] + 1)
    save_checkpoint(path.parent.parent, content["step"], content)
