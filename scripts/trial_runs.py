"""Tiny runs that start in forks of a warmed process, or as real ones, and what they leave behind."""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from moments import STEP, Extent, Moment, SharedMemory, Watch, mark_run, strike_by_clock

from depthlab.config.folder import config_dir
from depthlab.records.arrays import array_names, load_arrays
from depthlab.records.checkpoints import checkpoint_path, list_checkpoints, load_checkpoint
from depthlab.records.record import find_records, read_record

ROOT = Path(__file__).resolve().parent.parent
SECONDS_FOR_A_START = 600.0
SECONDS_TO_DIE = 10.0
PR_SET_CHILD_SUBREAPER = 36
NAME = "trial"

_COMMON = ("data=digits", "logger=csv", f"name={NAME}", "trainer.max_steps=12", "trainer.val_every_steps=6")
_ONE = (*_COMMON, "trainer=cpu", "trainer.num_threads=1", "checkpoint.every_steps=4", "data.batch_size=64")
_RESNET = ("model=resnet20", "model.depth=8", "logger.every_steps=1")
# What ends at the second validation.
_STOPPING = ("callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=1000")
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "ordinary": (*_ONE, *_RESNET),
    "dense": (*_ONE, "model=dense", "logger.every_steps=1"),
    "ema": (*_ONE, *_RESNET, "callbacks=ema", "callbacks.ema.decay=0.5"),
    "early stopping": (*_ONE, *_RESNET, "callbacks=early_stopping", *_STOPPING, "trainer.val_every_steps=4"),
    "compiled": (*_ONE, "model=dense", "logger.every_steps=1", "trainer.compile=true"),
    "bf16": (*_ONE, *_RESNET, "trainer.precision=bf16-mixed"),
    "accumulating": (*_ONE, *_RESNET, "trainer.accumulate_grad_batches=8", "data.batch_size=16"),
    "chunks": (*_ONE, *_RESNET, "trainer.steps_per_replay=2", "logger.every_steps=2"),
    "data-parallel": (*_ONE, *_RESNET, "trainer=ddp_cpu"),
}


@dataclass(frozen=True)
class Start:
    """One start of a run: its exit code, what it printed, where it was struck (None: nowhere), the steps it reached."""

    code: int
    said: str
    struck_in: str | None
    step: int
    stray: int
    is_process: bool


def compose(variant: str, seed: int) -> tuple[list[str], dict[str, Any]]:
    """The command line of a run, and its resolved configuration."""
    from hydra import compose as composed
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    words = [*VARIANTS[variant], f"seed={seed}"]
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        tree = OmegaConf.to_container(composed("train", overrides=words), resolve=True)
    assert isinstance(tree, dict)
    return words, {str(key): value for key, value in tree.items()}


def freeze(tree: Mapping[str, Any], logs: Path) -> Path:
    """The configuration as jobs of a sweep get it, for runs below `logs`."""
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / "frozen.json"
    path.write_text(json.dumps({"config": {**tree, "paths": {**tree["paths"], "log_dir": str(logs)}}, "command": "-"}))
    return path


def act_as_job(frozen: Path, is_parallel: bool, watch: Watch) -> int:
    """Be the process of one run, or the first one of a data-parallel run; the exit code."""
    from lightning.pytorch.strategies.launchers import subprocess_script

    from depthlab.runs import build, process

    if is_parallel:  # forked before this process has files and handlers that a new one would not have
        vars(subprocess_script)["subprocess"] = SimpleNamespace(Popen=SecondProcess(watch))
    # Only a GPU captures steps. The same chunks are run here without a graph.
    vars(build)["why_not_capturable"] = lambda *arguments: None
    mark_run(watch)
    sys.argv = ["depthlab.runs.process", str(frozen)]
    return process.main()


class SecondProcess:
    """The other process of a data-parallel run: a fork that waits for the environment that Lightning gives a new one.

    Instances stand for `subprocess.Popen` in Lightning's launcher, and for what that returns.
    """

    def __init__(self, watch: Watch) -> None:
        receiver, self._sender = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            watch.moment = None  # only the first process is struck
            sys.setprofile(None)
            os.close(self._sender)
            _end_with(functools.partial(_act_as_second, receiver))
        os.close(receiver)

    def __call__(self, command: Sequence[str], env: Mapping[str, str], cwd: str | None) -> SecondProcess:
        with os.fdopen(self._sender, "w") as file:
            json.dump({"frozen": command[-1], "environment": dict(env)}, file)
        return self

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _act_as_second(receiver: int) -> int:
    from depthlab.runs import process

    with os.fdopen(receiver) as file:
        content = file.read()
    if not content:  # the first process has ended before it needed another one
        return 0
    started = json.loads(content)
    os.environ.clear()
    os.environ.update(started["environment"])
    sys.argv = ["depthlab.runs.process", started["frozen"]]
    return process.main()


def act_as_publisher(logs: Path, results: Path, watch: Watch) -> int:
    """Be the command `publish`; the exit code."""
    from depthlab.commands.publish import main

    with watch.during("publishing"):
        return main([str(logs / NAME), "--results", str(results), "--allow-dirty", "--allow-mixed"])


class Forks:
    """Starts commands in forks of this process, which has imported everything and has one thread.

    Args:
        folder: for what the commands print.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # What a killed process leaves becomes a child of this one.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `nohup` and `&` have it ignored
        self.extents: dict[str, Extent] = {}

    def measure(self, kind: str, act: Callable[[Watch], int]) -> None:
        """Let an uninterrupted start say what its phases hold, and import what it imported.

        Raises:
            RuntimeError: it did not end well.
        """
        found = self.folder / "measured.json"

        def measured(watch: Watch) -> int:
            code = act(watch)
            sys.setprofile(None)
            found.write_text(json.dumps({"extent": watch.extent(), "modules": list(sys.modules)}))
            return code

        ended = self.start(kind, measured, counts_all=True)
        if ended.code:
            raise RuntimeError(f"the uninterrupted run ended with exit code {ended.code}: {ended.said[-2000:]}")
        told = json.loads(found.read_text())
        self.extents[kind] = told["extent"]
        _import(told["modules"])
        gc.collect()
        gc.freeze()  # a collection in a fork would copy every page that it touches

    def start(
        self, kind: str, act: Callable[[Watch], int], moment: Moment | None = None, counts_all: bool = False
    ) -> Start:
        """Fork; strike at the moment, if there is one; wait."""
        memory, said, extent = SharedMemory(), self.folder / "said.txt", self.extents.get(kind, {})
        before = _children()
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            _be_child(act, memory, moment, extent, said, counts_all)
        status: list[int] = []

        def has_ended() -> bool:
            if not status:
                found, code = os.waitpid(pid, os.WNOHANG)
                status.extend([code] if found else [])
            return bool(status)

        struck = None
        if moment and moment.kind == "time":
            struck = strike_by_clock(moment, extent, memory, lambda number: os.kill(pid, number), has_ended)
        _wait(has_ended, pid)
        code = os.waitstatus_to_exitcode(status[0])
        return Start(
            code, said.read_text(errors="replace"), struck or memory.struck_in, memory[STEP], _end_strays(before), False
        )


def _be_child(
    act: Callable[[Watch], int],
    memory: SharedMemory,
    moment: Moment | None,
    extent: Extent,
    said: Path,
    counts_all: bool,
) -> NoReturn:
    def be_struck() -> int:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        return act(Watch(memory, moment, extent, counts_all))

    _end_with(be_struck)


def _end_with(act: Callable[[], int]) -> NoReturn:
    """The rest of a forked process, which must not return into its parent's code."""
    code = 1
    try:
        code = act()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(BaseException):
                stream.flush()
        os._exit(code)


def _import(names: Sequence[str]) -> None:
    """Import modules, so that forks find them; some can only be imported by others."""
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    if "torch._inductor.codecache" in names:
        _prepare_compiling()
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise RuntimeError("a module started a thread when it was imported: forks would lack it")


def _prepare_compiling() -> None:
    """Do once what each process that compiles does first: it reads the source of torch and of triton for its keys."""
    from torch._inductor import codecache, config

    config.cpp_cache_precompile_headers = False  # all that is compiled lies in the cache
    codecache.torch_key()
    codecache.CacheBase.get_system()


def _wait(has_ended: Callable[[], bool], pid: int) -> None:
    until = time.monotonic() + SECONDS_FOR_A_START
    while not has_ended():
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            raise RuntimeError(f"a start hung for {SECONDS_FOR_A_START:.0f} s")
        time.sleep(0.002)


def start_process(words: Sequence[str], folder: Path, strike: Callable[[subprocess.Popen[bytes]], str | None]) -> Start:
    """Start train.py as a person does, let `strike` do what it does, wait."""
    said, before = folder / "said.txt", _children()
    with (
        said.open("wb") as file,
        subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words], cwd=ROOT, stdout=file, stderr=file
        ) as process,
    ):
        struck = strike(process)
        code = process.wait(SECONDS_FOR_A_START)
    return Start(code, said.read_text(errors="replace"), struck, 0, _end_strays(before), True)


def _children() -> set[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in found}


def _end_strays(before: set[int]) -> int:
    """How many processes a start has left that do not end by themselves; they are ended."""
    until = time.monotonic() + SECONDS_TO_DIE
    while (left := _children() - before) and time.monotonic() < until:
        for pid in left:
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(left)


def directory_of(logs: Path) -> Path | None:
    """The one run below `logs`, None where there is none yet."""
    found = list(find_records(logs)) if logs.exists() else []
    return found[0] if found else None


def progress(logs: Path) -> tuple[int, int, int]:
    """How far the run below `logs` is: the newest checkpoint's step, the record's step, the record's segments.

    Raises:
        InputError: the record cannot be read.
    """
    directory = directory_of(logs)
    if directory is None:
        return (0, 0, 0)
    record = read_record(directory)
    newest = max((int(path.stem.partition("-")[2]) for path in list_checkpoints(directory)), default=0)
    return (newest, record.steps, len(record.segments))


def differences(run: Path, whole: Path) -> tuple[str, ...]:
    """The parts in which a finished run differs from the uninterrupted one, and files that should not be there."""
    record, expected = read_record(run), read_record(whole)
    keys = ("status", "steps", "metrics", "metrics_ema", "stopped_early", "weights_sha256")
    found = [key for key in keys if record.get(key) != expected.get(key)]
    if (run / "metrics.csv").read_bytes() != (whole / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    if not is_equal(_arrays(run), _arrays(whole)):
        found.append("diagnostics")
    found += [f"left {path.name}" for path in sorted(run.parent.rglob("*.tmp"))]
    if not checkpoint_path(run, expected.steps).exists():
        return (*found, "no last checkpoint")
    state, wanted = (load_checkpoint(checkpoint_path(path, expected.steps)) for path in (run, whole))
    parts = [key for key in wanted if key != "record"]  # which says when, and was compared above
    return (*found, *(key for key in parts if not is_equal(state.get(key), wanted[key])))


def _arrays(directory: Path) -> dict[str, dict[str, bytes]]:
    arrays = {name: load_arrays(directory, name) for name in array_names(directory)}
    return {name: {key: array.tobytes() for key, array in each.items()} for name, each in arrays.items()}


def is_equal(a: Any, b: Any) -> bool:
    """Whether two checkpoints, or parts of them, are equal bit for bit; a NaN equals itself."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same_kind = a.dtype == b.dtype and a.shape == b.shape
        return same_kind and a.contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(is_equal, a, b))
    return bool(a == b) or repr(a) == repr(b)


def cpu_seconds(pid: int) -> float:
    """What a living process has used so far."""
    try:
        used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def handles_signals(pid: int) -> bool:
    """Whether a process has its handlers: while Python itself starts, signals are Python's."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
    return False
