"""Several jobs on one GPU: MPS against a stub of its control daemon, how many jobs pay, and too little memory."""

import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from depthlab.errors import InputError
from depthlab.records.progress_file import Progress, write_progress
from depthlab.sweeps import mps, sharing
from depthlab.sweeps.mps import MpsDaemons
from depthlab.sweeps.sharing import Tuner, is_out_of_memory, next_number

from .stub_sweep import seeds, start_sweep, sweep, wait_for
from .test_signals import is_alive

# A control daemon as far as the launcher sees it: -f stays, "quit" ends it, each start and each end is noted.
STUB = f"""#!{sys.executable}
import os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
notes = pathlib.Path(os.environ["MPS_NOTES"])
def note(text):
    with notes.open("a") as file:
        file.write(text + "\\n")
if "-f" in sys.argv:
    if os.environ.get("MPS_REFUSES"):
        sys.exit(os.environ["MPS_REFUSES"])
    note(f"start {{os.getpid()}} {{os.environ['CUDA_VISIBLE_DEVICES']}}")
    (folder / "control").write_text(str(os.getpid()))
    while (folder / "control").exists():
        time.sleep(0.02)
    note(f"end {{os.getpid()}}")
else:
    said = sys.stdin.read().strip()
    if not (folder / "control").exists():
        sys.exit("Cannot find MPS control daemon process")
    if said.startswith("quit"):
        (folder / "control").unlink()
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stub on PATH; what it notes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    stub = folder / mps.CONTROL
    stub.write_text(STUB)
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    path = tmp_path / "notes.txt"
    path.write_text("")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MPS_NOTES", str(path))
    monkeypatch.delenv(mps.PIPE_VARIABLE, raising=False)
    return path


def noted(notes: Path, event: str) -> list[list[str]]:
    return [line.split()[1:] for line in notes.read_text().splitlines() if line.startswith(event)]


def three_jobs(logs, **settings: object):
    logs.plan({seed: {"seconds": 0.3} for seed in range(4)})
    return sweep(logs.path, *seeds(*range(4), more="trainer=gpu"), gpus=2, jobs_per_device=2, **settings)


@pytest.mark.slow
def test_a_daemon_is_started_once_a_device_and_ended_with_the_sweep(logs, notes, capfd):
    assert three_jobs(logs) == 0
    assert sorted(device for _, device in noted(notes, "start")) == ["0", "1"]
    assert len(noted(notes, "end")) == 2
    assert {each.devices for each in logs.trace()} == {"0"}  # each daemon sees one GPU, which is its first
    assert "MPS: started for GPU 1" in capfd.readouterr().out


def test_no_daemon_where_jobs_do_not_share_or_mps_is_off(logs, notes):
    assert sweep(logs.path, *seeds(1, more="trainer=gpu"), gpus=1) == 0
    assert sweep(logs.path, *seeds(2, more="trainer=gpu"), gpus=1, jobs_per_device=2, mps="off") == 0
    assert noted(notes, "start") == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_daemon_outlives_the_launcher(logs, notes, number):
    logs.plan({1: {"seconds": 30}})
    launcher = start_sweep(logs.path, *seeds(1, more="trainer=gpu"), gpus=1, jobs_per_device=2)
    wait_for(lambda: logs.seeds("start") == [1])
    ((pid, _),) = noted(notes, "start")
    launcher.send_signal(number)
    launcher.wait(20)
    wait_for(lambda: not is_alive(int(pid)))
    assert noted(notes, "end") == [[pid]]


@pytest.mark.parametrize("obstacle", ["missing", "not permitted", "another user's"])
def test_where_mps_cannot_be_used_auto_goes_on_and_on_refuses(tmp_path, notes, monkeypatch, obstacle):
    theirs = tmp_path / "nvidia-mps"
    words = {"missing": "not installed", "not permitted": "Operation not permitted", "another user's": "another user's"}
    if obstacle == "missing":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif obstacle == "not permitted":
        monkeypatch.setenv("MPS_REFUSES", "Operation not permitted")
    else:
        theirs.mkdir()
        (theirs / "control").write_text("")
        monkeypatch.setattr(mps.os, "getuid", lambda: 12345)
    said: list[str] = []
    daemons = MpsDaemons("auto", {}, said.append, theirs)
    environment = daemons.environment("0")
    daemons.environment("0")
    assert len(said) == 1
    assert words[obstacle] in said[0]
    assert "take turns" in said[0]
    # Jobs would wait behind the other user's: they are sent to a folder without a daemon.
    assert (mps.PIPE_VARIABLE in environment) == (obstacle == "another user's")
    assert environment.get(mps.PIPE_VARIABLE) != str(theirs)
    assert not daemons.serves("0")
    daemons.close()
    with pytest.raises(InputError, match=r"hydra\.launcher\.mps=on: .*mps=auto"):
        MpsDaemons("on", {}, said.append, theirs).environment("0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("client", "words"),
    [("import sys; sys.exit('CUDA error 805')", "CUDA error 805"), ("import time; time.sleep(60)", "within 1 s")],
    ids=["refused", "hangs"],
)
def test_a_daemon_that_no_job_could_use_is_ended_at_once(notes, monkeypatch, client, words):
    monkeypatch.setattr(mps, "CLIENT", client)
    monkeypatch.setattr(mps, "CLIENT_SECONDS", 1)
    said: list[str] = []
    daemons = MpsDaemons("auto", {}, said.append, Path("/nonexistent"))
    assert daemons.environment("0") == {}
    assert not daemons.serves("0")
    assert len(said) == 1
    assert words in said[0] and "take turns" in said[0]
    assert len(noted(notes, "end")) == len(noted(notes, "start")) == 1
    daemons.close()


def test_mps_on_that_cannot_be_is_an_error_of_the_command(logs, notes, monkeypatch):
    monkeypatch.setenv("MPS_REFUSES", "Operation not permitted")
    with pytest.raises(InputError, match="Operation not permitted"):
        three_jobs(logs, mps="on")
    assert logs.trace() == []


def test_a_daemon_of_ones_own_is_left_alone(tmp_path, notes):
    (tmp_path / "control").write_text("")
    said: list[str] = []
    daemons = MpsDaemons("auto", {}, said.append, tmp_path)
    assert daemons.environment("0") == daemons.environment("1") == {}
    assert daemons.serves("0")
    daemons.close()
    assert (tmp_path / "control").exists()
    assert noted(notes, "start") == []
    assert len(said) == 1
    assert "runs already" in said[0]


def test_gpus_are_named_by_their_uuid_where_it_is_known(notes):
    daemons = MpsDaemons("auto", {"3": "12ab-34"}, lambda _: None, Path("/nonexistent"))
    assert daemons.environment("3")["CUDA_VISIBLE_DEVICES"] == "GPU-12ab-34"
    daemons.close()
    assert [device for _, device in noted(notes, "start")] == ["GPU-12ab-34"]


@pytest.mark.slow
def test_a_gpu_in_exclusive_mode_without_mps_has_one_job_at_a_time(logs, monkeypatch, capfd):
    monkeypatch.setattr(sharing, "compute_mode", lambda device: sharing.EXCLUSIVE)
    assert three_jobs(logs, mps="off") == 0
    running = most = 0
    for each in logs.trace():
        if each.devices == "0":
            running += {"start": 1, "end": -1}[each.event]
            most = max(most, running)
    assert most == 1
    assert "exclusive compute mode" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("curve", "best"),
    [
        ([5, 9, 12, 14, 14.1, 13], 4),
        ([5, 4], 1),
        ([5, 10, 15, 20, 25, 30, 35, 40], 8),
        ([5, 5.1], 1),
        ([0, 0], 1),
    ],
)
def test_the_number_of_jobs_settles_on_the_best_of_a_curve(curve, best):
    measured: dict[int, float] = {}
    number, is_settled = next_number(measured, 8)
    while not is_settled:
        measured[number] = curve[number - 1]
        number, is_settled = next_number(measured, 8)
    assert number == best


def test_the_tuner_measures_full_windows_of_jobs_that_have_begun():
    tuner = Tuner(most=3, window_seconds=10)
    rates = {1: 1.0, 2: 1.8, 3: 1.7}  # of all jobs together, in parts of a run in 1,000 s
    done: dict[str, float] = {}
    for now in range(0, 200, 2):
        while len(done) < tuner.number:
            done[f"job {len(done)}"] = 0.0
        changed = tuner.observe(now, done, 1)
        done = {name: part + 2 * rates[len(done)] / len(done) / 1000 for name, part in done.items()}
        if changed and tuner.is_settled:
            break
    assert tuner.number == 2
    assert tuner.measured == pytest.approx({1: 3.6, 2: 6.48, 3: 6.12})


def test_a_window_begins_anew_when_a_job_ends():
    tuner = Tuner(window_seconds=10)
    tuner.observe(0, {"a": 0.1}, 1)
    tuner.observe(8, {"b": 0.1}, 1)
    tuner.observe(12, {"b": 0.2}, 1)
    assert tuner.measured == {}
    tuner.observe(18, {"b": 0.3}, 1)
    assert tuner.measured == pytest.approx({1: 72.0})


@pytest.mark.slow
def test_jobs_per_device_auto_adds_jobs_while_runs_an_hour_grow(logs, monkeypatch, capfd):
    # Two jobs do more together than one, three less than two.
    rates = {1: 0.1, 2: 0.08, 3: 0.03}
    monkeypatch.setattr(sharing, "WINDOW_SECONDS", 0.5)
    monkeypatch.setattr("depthlab.sweeps.queue.LOOK_SECONDS", 0.1)
    parts: dict[str, float] = {}
    observe = sharing.Sharing.observe

    def run_on(self, entries):
        running = [entry for entry in entries if entry.state == "running"]
        for entry in running:
            parts[entry.job.label] = parts.get(entry.job.label, 0.0) + 0.1 * rates.get(len(running), 0.01)
            if entry.job.directory.exists():
                write_progress(entry.job.directory, Progress(int(1e6 * parts[entry.job.label]), 10**6))
        observe(self, entries)
        if self._tuner.is_settled:
            logs.plan({})  # the others need not take long

    monkeypatch.setattr(sharing.Sharing, "observe", run_on)
    logs.plan({seed: {"seconds": 4} for seed in range(8)})
    assert sweep(logs.path, *seeds(*range(8), more="trainer=gpu"), gpus=1, jobs_per_device="auto", mps="off") == 0
    assert "jobs_per_device=auto: 2 (runs an hour" in capfd.readouterr().out


@pytest.mark.slow
def test_a_job_without_memory_is_queued_again_with_fewer_beside_it(logs, capfd):
    message = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    logs.plan({0: {"seconds": 1.0}, 1: {"seconds": 0.2, "code": 1, "fails": 1, "reason": message}, 2: {}})
    jobs = seeds(0, 1, 2, more="trainer=gpu")
    assert sweep(logs.path, *jobs, gpus=1, jobs_per_device=2, mps="off") == 0
    assert logs.seeds("end") == [0, 1, 1, 2]
    said = capfd.readouterr().out
    assert said.count("out of device memory; queued again, 1 at a time on a GPU now") == 1
    running = 0
    for each in logs.trace()[3:]:
        running += {"start": 1, "end": -1}[each.event]
        assert running <= 1


def test_a_job_that_is_alone_and_has_no_memory_has_failed(logs):
    logs.plan({1: {"code": 1, "reason": "OutOfMemoryError: CUDA out of memory."}})
    assert sweep(logs.path, *seeds(1, more="trainer=gpu"), gpus=1) == 1
    assert logs.seeds("start") == [1]
    assert not is_out_of_memory("ValueError: no", ["killed"])
