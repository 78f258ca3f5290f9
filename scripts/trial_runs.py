"""Tiny runs of every kind, and what a process does that is one: a run, its second process, or a publication."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from moments import Watch, mark_run
from trial_starts import end_with

from depthlab.config.folder import config_dir

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
