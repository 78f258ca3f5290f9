"""Tiny runs of every kind: what a process does that is one, how far it has come, and where two differ."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from moments import Watch, mark_run
from trial_starts import end_with

from depthlab.config.folder import config_dir
from depthlab.records.arrays import array_names, load_arrays
from depthlab.records.checkpoints import checkpoint_path, list_checkpoints, load_checkpoint
from depthlab.records.record import find_records, read_record

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
            end_with(functools.partial(_act_as_second, receiver))
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
