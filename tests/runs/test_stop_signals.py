"""A signal that asks a run to stop: exit code 75, a checkpoint, and a record that the same command continues."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from depthlab.config.schema import as_dict
from depthlab.records.checkpoints import list_checkpoints
from depthlab.records.record import find_records, read_record
from depthlab.runs.fit import Fit
from depthlab.runs.process import perform
from depthlab.training.callbacks.weight_averaging import WeightAverage
from depthlab.training.module import SupervisedModule

from ..conftest import ROOT, Compose, slowly
from ..typing_in import signals_restored
from ..whole_runs import SMALL, results, same_weights

AVERAGING = ("callbacks=ema", "callbacks.ema.decay=0.5")
KINDS = {
    "ordinary": AVERAGING,
    "accumulating": (*AVERAGING, "trainer.accumulate_grad_batches=8", "data.batch_size=16", "logger.every_steps=2"),
    "chunks": ("trainer.steps_per_replay=2",),
}
# Where a signal comes: what is called there, and at which of its calls.
MOMENTS = {
    "first batch": (SupervisedModule, "training_step", 1),
    "batch": (SupervisedModule, "training_step", 4),
    "update": (SupervisedModule, "optimizer_step", 3),
    "checkpoint": (Fit, "save", 1),
    "validation": (SupervisedModule, "validation_step", 1),
    "end of validation": (SupervisedModule, "on_validation_epoch_end", 1),
    "last validation": (SupervisedModule, "validation_step", 2),
    "after the last checkpoint": (SupervisedModule, "on_train_end", 1),
    "end of training": (Callback, "on_train_end", 1),
    "between training and test": (Fit, "test", 1),
    "test": (SupervisedModule, "test_step", 2),
    "end of test": (SupervisedModule, "on_test_epoch_end", 1),
    "averages": (WeightAverage, "averages", 1),
    "before the record": (Fit, "stopped_early", 1),
}


def signal_at(patch: pytest.MonkeyPatch, owner: type, name: str, call: int, number: int) -> None:
    """Have a signal come when something is called for the `call`-th time."""
    act, calls = getattr(owner, name), 0

    def acted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(number)
        return act(self, *args, **kwargs)

    patch.setattr(owner, name, acted)


def code_of(tree: dict[str, Any]) -> int:
    """The exit code of a process that performs this."""
    with signals_restored():
        try:
            return perform(tree, "")
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            return ended.code


@pytest.fixture(scope="session")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wholes")


def only_run(tree: dict[str, Any]) -> Path:
    (directory,) = find_records(Path(tree["paths"]["log_dir"]) / str(tree["name"]))
    return directory


_WHOLE: dict[str, Path] = {}


def whole_run(tree: dict[str, Any], folder: Path) -> Path:
    """The same run without a stop; the tests of a process share it."""
    paths = {**tree["paths"], "log_dir": str(folder)}
    key = json.dumps({**tree, "paths": None})
    if key not in _WHOLE:
        logs = {**tree, "paths": paths, "name": f"whole-{len(_WHOLE)}"}
        assert code_of(logs) == 0
        _WHOLE[key] = only_run(logs)
    return _WHOLE[key]


def assert_stopped_and_goes_on(
    tree: dict[str, Any], patched: pytest.MonkeyPatch, moment: str, number: int, wholes: Path
) -> None:
    """Stop the run at a moment, continue it, and compare it with one that was not stopped."""
    with patched.context() as patch:
        signal_at(patch, *MOMENTS[moment], number)
        assert code_of(tree) == 75
    directory = only_run(tree)
    record = read_record(directory)
    assert record.status == "running"
    assert list_checkpoints(directory)[0].name == f"step-{record.steps:08d}.ckpt"
    assert record.steps >= 1
    assert code_of(tree) == 0
    whole = whole_run(tree, wholes)
    continued, expected = read_record(directory), read_record(whole)
    assert (continued.status, continued.metrics_ema) == ("finished", expected.metrics_ema)
    assert same_weights(directory, whole)
    assert results(directory) == results(whole)


OFTEN = [("ordinary", moment) for moment in ("test", "before the record")]
PLACES = [
    pytest.param(kind, moment, marks=[] if (kind, moment) in OFTEN or moment == "batch" else [pytest.mark.slow])
    for kind in KINDS
    for moment in MOMENTS
    if kind != "chunks" or moment not in ("update", "averages")  # nothing of the kind happens in chunks
]


@pytest.mark.parametrize(("kind", "moment"), PLACES)
def test_a_run_that_is_asked_to_stop_has_a_checkpoint_and_goes_on(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, wholes: Path, kind: str, moment: str
) -> None:
    if kind == "chunks":
        monkeypatch.setattr("depthlab.training.graph_steps.why_not_capturable", lambda *args: None)
    tree = as_dict(compose_config(*SMALL, "checkpoint.every_steps=4", *KINDS[kind]))
    assert_stopped_and_goes_on(tree, monkeypatch, moment, signal.SIGTERM, wholes)


@pytest.mark.parametrize("number", [signal.SIGINT, *slowly(signal.SIGUSR1, signal.SIGUSR2)])
@pytest.mark.parametrize("moment", ["batch", pytest.param("validation", marks=pytest.mark.slow)])
def test_every_stop_signal_stops(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, wholes: Path, moment: str, number: int
) -> None:
    tree = as_dict(compose_config(*SMALL, *KINDS["accumulating"]))
    assert_stopped_and_goes_on(tree, monkeypatch, moment, number, wholes)


def test_a_run_that_a_callback_ends_and_a_signal_stops_is_tested_later(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, wholes: Path
) -> None:
    stopping = ("callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=1000")
    tree = as_dict(compose_config(*SMALL, "callbacks=early_stopping", *stopping, "trainer.val_every_steps=3"))
    assert_stopped_and_goes_on(tree, monkeypatch, "last validation", signal.SIGTERM, wholes)
    assert read_record(only_run(tree)).steps == 6


# --- real processes ---


def started(logs: Path, *overrides: str) -> subprocess.Popen[str]:
    """A run in a process, and a session, of its own."""
    words = ("data=digits", "trainer=cpu", "logger=csv", *SMALL, f"paths.log_dir={logs}", *overrides)
    return subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_step(logs: Path, process: subprocess.Popen[str], step: int) -> None:
    """Until the run's curves have a point at or beyond a step."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for path in logs.rglob("metrics.csv"):
            rows = path.read_text().splitlines()[1:]
            if rows and int(rows[-1].split(",")[0] or 0) >= step:
                return
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)
    raise AssertionError(f"no step {step} in time")


def processes_of(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def assert_none_left(session: int) -> None:
    """The kernel ends the others when the first process is gone."""
    deadline = time.monotonic() + 10
    while processes_of(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(session) == []


CASES = {
    "accumulating": ("trainer.accumulate_grad_batches=8", "data.batch_size=16", "trainer.val_every_steps=100"),
    "validating": ("trainer.val_every_steps=1", "data.eval_batch_size=10"),
    "two processes": ("trainer=ddp_cpu", "trainer.val_every_steps=50"),
    "two processes that validate": ("trainer=ddp_cpu", "trainer.val_every_steps=2", "data.eval_batch_size=20"),
}


# scripts/kill_trials.py --stop draws the others.
STOPPED_PROCESSES = [
    ("accumulating", signal.SIGTERM, "all of them"),
    ("validating", signal.SIGUSR1, "the first process"),
    ("two processes", signal.SIGTERM, "the first process"),
    ("two processes", signal.SIGINT, "all of them"),
    ("two processes that validate", signal.SIGUSR1, "all of them"),
    ("two processes that validate", signal.SIGTERM, "the first process"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "number", "to"), STOPPED_PROCESSES)
def test_a_process_that_is_asked_to_stop_ends_with_75_and_a_checkpoint(
    tmp_path: Path, case: str, number: signal.Signals, to: str
) -> None:
    overrides = (*CASES[case], "trainer.max_steps=100000", "logger.every_steps=2", "checkpoint.every_steps=100000")
    process = started(tmp_path, *overrides)
    try:
        wait_for_step(tmp_path, process, 4)
        if to == "all of them":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 75, said
        assert "Traceback" not in said
        assert "the same command continues it" in said
        assert_none_left(process.pid)
        (directory,) = find_records(tmp_path)
        record = read_record(directory)
        assert (record.status, record.steps >= 4) == ("running", True)
        assert list_checkpoints(directory)[0].name == f"step-{record.steps:08d}.ckpt"
    finally:
        for pid in processes_of(process.pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "to"),
    [
        ("one process", "the first process"),
        ("two processes", "the first process"),
        ("two processes", "all of them"),
    ],
)
def test_a_process_that_is_stopped_while_it_tests_is_tested_again(tmp_path: Path, case: str, to: str) -> None:
    """The test is slow here: an image a batch."""
    strategy = ("trainer=ddp_cpu",) if case == "two processes" else ()
    overrides = (*strategy, "trainer.max_steps=4", "trainer.val_every_steps=4", "data.eval_batch_size=2")
    process = started(tmp_path, *overrides, "data.val_size=0", "logger.every_steps=2", "model.depth=56")
    try:
        wait_for_step(tmp_path, process, 4)
        time.sleep(2)  # the test takes far longer
        if to == "all of them":
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 75, said
        assert "Traceback" not in said
        assert_none_left(process.pid)
        (directory,) = find_records(tmp_path)
        assert (read_record(directory).status, read_record(directory).steps) == ("running", 4)
        assert len(list_checkpoints(directory)) == 1
        again = started(tmp_path, *overrides, "data.val_size=0", "logger.every_steps=2", "model.depth=56")
        said, _ = again.communicate(timeout=300)
        assert again.returncode == 0, said
        assert read_record(directory).status == "finished"
    finally:
        for pid in processes_of(process.pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", ["[ema,lr_monitor,early_stopping]"])
def test_stock_callbacks_work_in_several_processes(tmp_path: Path, callbacks: str) -> None:
    overrides = ("trainer=ddp_cpu", "trainer.max_steps=6", "trainer.val_every_steps=3", f"callbacks={callbacks}")
    process = started(tmp_path, *overrides, "logger.every_steps=3", "checkpoint.every_steps=3")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (directory,) = find_records(tmp_path)
    record = read_record(directory)
    assert record.status == "finished"
    assert record.metrics_ema is not None
    assert record.metrics_ema.keys() <= record.metrics.keys()


@pytest.mark.slow
def test_a_run_that_slept_while_its_folder_was_removed_writes_nothing_into_the_next_ones(tmp_path: Path) -> None:
    places = (f"paths.log_dir={tmp_path}", "trainer=cpu", "trainer.num_threads=1", "logger=csv")
    length = ("trainer.max_steps=400", "trainer.val_every_steps=20", "logger.every_steps=5")
    words = [sys.executable, "train.py", "data=digits", *SMALL, *places, *length]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as sleeper:
        until = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/progress.json")) and sleeper.poll() is None:
            assert time.monotonic() < until, "the run did not start"
            time.sleep(0.02)
        sleeper.send_signal(signal.SIGSTOP)
        shutil.rmtree(tmp_path / "runs")
        assert subprocess.run(words, cwd=ROOT, check=False).returncode == 0
        before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
        sleeper.send_signal(signal.SIGCONT)
        assert sleeper.stderr is not None
        assert "was removed while this process worked on it" in sleeper.stderr.read()
    assert sleeper.returncode == 73
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()} == before


# --- signals while modules are imported ---

LOUD = """
import os, signal
try:
    os.kill(os.getpid(), signal.{name})
    for _ in range(1000): pass
except BaseException as error:  # as modules in C do
    raise ImportError("cannot import a part of it") from error
"""


@pytest.mark.parametrize(
    ("name", "prepare", "code"),
    [
        *((name, "prepare_signals", 75) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2")),
        *(("SIGINT", *case) for case in (("prepare_signals", 130), ("stop_when_asked", 75))),
    ],
)
def test_a_signal_while_a_module_is_imported_ends_the_process_cleanly(
    tmp_path: Path, name: str, prepare: str, code: int
) -> None:
    (tmp_path / "loud.py").write_text(LOUD.format(name=name))
    program = f"from depthlab.runs import exits; exits.{prepare}(); print('before'); import loud; print('after')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "before\n")
    assert done.stderr == ("" if code == 130 else "stopped; the same command goes on from the last checkpoint\n")


CONVERTED = """
import os, signal, sys
from depthlab.config import check
from depthlab.runs import exits, process

def converting(tree):
    try:
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000): pass
    except BaseException as error:  # as OmegaConf does while it merges
        raise {error}("an error of its own") from error
    print("after")

check.check = converting
exits.prepare_signals()
sys.exit({call})
"""


@pytest.mark.parametrize("error", ["UnboundLocalError", "OSError", "InputError"])
@pytest.mark.parametrize("name", ["SIGTERM", *slowly("SIGUSR1", "SIGUSR2")])
@pytest.mark.parametrize("call", ["converting({})", "process.perform({}, 'command')"])
def test_a_library_that_makes_an_error_of_a_signal_is_not_believed(call: str, name: str, error: str) -> None:
    program = CONVERTED.format(call=call, name=name, error=error)
    program = f"from depthlab.errors import InputError\n{program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "stopped; the same command goes on from the last checkpoint\n"


def test_a_signal_between_two_programs_of_one_process_waits_for_the_second() -> None:
    second = "from depthlab.runs import exits; exits.stop_when_asked(); print('not stopped')"
    program = (
        "import os, signal, sys; from depthlab.runs import exits; exits.prepare_signals(); exits.block_signals(); "
        f"os.kill(os.getpid(), signal.SIGTERM); os.execv(sys.executable, [sys.executable, '-c', {second!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (75, "")


ENDING = """
import atexit, os, signal
from depthlab.runs import exits

def late():
    os.kill(os.getpid(), signal.{name})
    for _ in range(1000): pass

def main():
    exits.{prepare}()
    {work}

atexit.register(late)
exits.end_with(main)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
@pytest.mark.parametrize("prepare", ["prepare_signals", "stop_when_asked"])
@pytest.mark.parametrize(
    ("work", "code"), [("return 0", 0), ("return 2", 2), ("raise SystemExit(75)", 75), ("raise KeyboardInterrupt", 130)]
)
def test_a_signal_while_python_ends_changes_no_exit_code(prepare: str, name: str, work: str, code: int) -> None:
    program = ENDING.format(prepare=prepare, name=name, work=work)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


NUM_OFFSETS = 40
CPU_SECONDS_OF_A_START = 4.0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the CPU time of a process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_process_that_is_stopped_while_it_imports_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Most of the modules that are imported early are small and many, and torch is most of the time."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    for idx in range(signals.index(number), NUM_OFFSETS, len(signals)):
        process = started(tmp_path / str(idx), "trainer.max_steps=12")
        wait_for_cpu_seconds(process, CPU_SECONDS_OF_A_START * (idx / NUM_OFFSETS) ** 2)
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
        assert process.returncode in ((75, 130) if number == signal.SIGINT else (75,)), said
        assert "Traceback" not in said


def wait_for_cpu_seconds(process: subprocess.Popen[str], seconds: float) -> None:
    """Until the process has used so much, and handles SIGTERM: while Python itself starts, signals are Python's."""
    tick = os.sysconf("SC_CLK_TCK")
    while process.poll() is None:
        used = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13])) / tick
        (caught,) = (
            int(line.split()[1], 16)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if line.startswith("SigCgt:")
        )
        if used >= seconds and caught & 1 << (signal.SIGTERM - 1):
            return
        time.sleep(0.003)
