"""Mode startup: from the command to the first step, by its parts; and the commands that train nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from depthlab_benchmarks.measure import Comparison
from depthlab_benchmarks.recipe import TRAIN
from depthlab_benchmarks.settings import Settings
from depthlab_benchmarks.sides import SideFailed, last_lines

COMMANDS = {
    "--help": (["--help"], {}),
    "--cfg job": (["--cfg", "job"], {}),
    "tab completion": (["-sc", "query=bash"], {"COMP_LINE": "depthlab train model=res"}),
    "python alone": (None, {}),
}


def measure_startup(settings: Settings) -> list[Comparison]:
    """Alternately: one start of each network, one call of each command."""
    starts = Comparison(f"seconds to the first step, {settings.data}", None, None)
    calls = Comparison("seconds of a command", None, None)
    for model in settings.models:
        settings.composed(model)  # reports mistakes before anything is measured, and reads the files once
    for _ in range(settings.turns):
        for model in settings.models:
            starts.add(model, **_parts(settings, model))
        for name in COMMANDS:
            calls.add(name, seconds=_call(name))
    return [starts, calls]


def _parts(settings: Settings, model: str) -> dict[str, float | None]:
    """Seconds of each part of a start, in the order in which they come, and of the whole."""
    with settings.ours(model) as side:
        ends = side.first_step()
    begins = [0.0, *ends.values()]
    parts: dict[str, float | None] = {
        name: end - begin for (name, end), begin in zip(ends.items(), begins, strict=False)
    }
    return {**parts, "total": ends["first step"]}


def _call(name: str) -> float:
    arguments, environment = COMMANDS[name]
    command = [sys.executable, "-c", ""] if arguments is None else [*TRAIN, *arguments]
    started = time.perf_counter()
    environment = {**os.environ, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SideFailed(f"depthlab train {name} failed: {last_lines(done.stderr)}")
    return seconds
