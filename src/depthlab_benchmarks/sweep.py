"""Mode sweep: the same jobs through the real launcher, one at a time and several at a time."""

from __future__ import annotations

import json
import statistics
import subprocess
import time

from depthlab_benchmarks.measure import Comparison
from depthlab_benchmarks.recipe import TRAIN, compose
from depthlab_benchmarks.settings import Settings
from depthlab_benchmarks.sides import SideFailed, last_lines


def compare_sweeps(settings: Settings) -> list[Comparison]:
    """For each network: a sweep over seeds, in turns with each number of jobs at a time in `settings.jobs`."""
    comparisons = []
    num_runs = max(settings.jobs) * 2
    for model in settings.models:
        tree = compose([f"model={model}", f"data={settings.data}"])
        comparison = Comparison(
            f"{num_runs} runs of {model}, {settings.data}", "runs_per_hour", _side(settings.jobs[0])
        )
        for turn in range(settings.turns):
            for jobs in settings.jobs:
                values = _run(settings, model, num_runs, jobs, turn, tree["data"]["batch_size"])
                comparison.add(_side(jobs), **values)
        comparisons.append(comparison)
    return comparisons


def _side(jobs: int) -> str:
    return f"{jobs} at a time"


def _run(settings: Settings, model: str, num_runs: int, jobs: int, turn: int, batch_size: int) -> dict[str, float]:
    logs = settings.folder / f"sweep-{model}-{jobs}-{turn}"
    command = [
        *(*TRAIN, f"model={model}", f"data={settings.data}", "logger=csv"),
        *(f"trainer.max_steps={settings.steps}", f"trainer.val_every_steps={settings.steps}"),
        *(f"trainer.accelerator={settings.accelerator}", f"paths.log_dir={logs}", *settings.overrides),
        *("-m", f"seed={','.join(str(seed) for seed in range(1, num_runs + 1))}"),
        f"hydra.launcher.jobs_per_device={jobs}",
    ]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SideFailed(f"a sweep failed:\n{last_lines(done.stdout + done.stderr)}")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in logs.rglob("record.json")]
    return {
        "runs_per_hour": 3600 * num_runs / seconds,
        "seconds": seconds,
        # While they train, all at a time together; the rest of a job's time is its start and its test.
        "images_per_second": jobs * statistics.median(record["images_per_second"] for record in records),
        "images_per_second_with_start": num_runs * settings.steps * batch_size / seconds,
    }
