"""Compare runs that are killed at random steps and continued with uninterrupted runs: python scripts/kill_trials.py N

Each trial trains a small network on the digits. It is killed (SIGKILL) one to three times at random steps, continued
with the same command each time, and then runs to the end. Weights, optimiser, metrics and curve must be equal to those
of the uninterrupted run, bit for bit. Trials alternate between fp32 and, if the processor has it, bf16. Exit code 0 if
all are equal.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from depthlab.config.hardware import probe
from depthlab.records.checkpoints import checkpoint_path, load_checkpoint
from depthlab.records.record import find_records, read_record

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (1, 2)
MOST_KILLS = 3
SECONDS_FOR_A_START = 300.0
# A step takes milliseconds: with few steps the run would end before the kill.
NETWORK = ("data=digits", "model=resnet20", "model.depth=8", "data.batch_size=64")
SETTINGS = ("trainer=cpu", "trainer.num_threads=1", "trainer.val_every_steps=25", "logger=csv", "logger.every_steps=1")


@dataclass(frozen=True)
class Trial:
    """A run, and the steps after which it is killed."""

    idx: int
    precision: str
    seed: int
    kills: tuple[int, ...]

    def command(self, logs: Path, max_steps: int) -> list[str]:
        """The command line that starts the run and continues it."""
        own = (f"trainer.precision={self.precision}", f"seed={self.seed}", f"trainer.max_steps={max_steps}")
        saving = ("checkpoint.every_steps=7", f"paths.log_dir={logs}")
        return [sys.executable, str(ROOT / "train.py"), *NETWORK, *SETTINGS, *own, *saving]


@dataclass(frozen=True)
class Verdict:
    """The steps after which a run was killed, those from which it continued, and its differences from the whole run."""

    trial: Trial
    killed_at: tuple[int, ...]
    continued_from: tuple[int, ...]
    differences: tuple[str, ...]


def draw(number: int, max_steps: int, seed: int, precisions: Sequence[str]) -> list[Trial]:
    """Trials with random kills, the precisions in turn; the same ones for the same seed."""
    chance = random.Random(seed)
    return [
        Trial(
            idx,
            precisions[idx % len(precisions)],
            chance.choice(SEEDS),
            tuple(sorted(chance.sample(range(max_steps), chance.randint(1, MOST_KILLS)))),
        )
        for idx in range(number)
    ]


def run_to_the_end(command: Sequence[str]) -> None:
    """Start a run and wait for it.

    Raises:
        RuntimeError: it did not finish.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stdout[-1000:]}{done.stderr[-2000:]}")


def run_and_kill(command: Sequence[str], logs: Path, step: int) -> int | None:
    """Start a run, kill it once it has made `step` steps; the step it had reached, None if it ended before."""
    started_at = time.time()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and _steps_made(logs, started_at) < step:
            if time.time() - started_at > SECONDS_FOR_A_START:
                process.kill()
                raise RuntimeError(f"no step {step} after {SECONDS_FOR_A_START:.0f} s")
            time.sleep(0.002)
        if process.poll() is not None:
            return None
        process.kill()
    return max(0, _steps_made(logs, started_at))


def _steps_made(logs: Path, since: float) -> int:
    """The last step in the curve that has been written since; -1 while there is none."""
    for path in logs.rglob("metrics.csv"):
        if path.stat().st_mtime > since:
            # The last line may be half a row; the one before it is whole.
            first = path.read_text(encoding="utf-8").split("\n")[-2].partition(",")[0]
            return int(first) if first.isdigit() else 0
    return -1


def directory_of(logs: Path) -> Path:
    """The one run below `logs`."""
    (directory,) = find_records(logs)
    return directory


def differences(run: Path, whole: Path) -> tuple[str, ...]:
    """The parts in which a finished run differs from the uninterrupted one."""
    record, expected = read_record(run), read_record(whole)
    found = [key for key in ("status", "steps", "metrics") if record[key] != expected[key]]
    if (run / "metrics.csv").read_bytes() != (whole / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    state, wanted = (load_checkpoint(checkpoint_path(path, expected["steps"])) for path in (run, whole))
    return (*found, *(key for key in wanted if not is_equal(state.get(key), wanted[key])))


def is_equal(a: Any, b: Any) -> bool:
    """Whether two checkpoints, or parts of them, are equal bit for bit; a NaN equals itself."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same_kind = a.dtype == b.dtype and a.shape == b.shape
        return same_kind and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(is_equal, a, b))
    return bool(a == b) or repr(a) == repr(b)


def try_out(trial: Trial, folder: Path, max_steps: int) -> Verdict:
    """Kill the run as often as the trial says, let it end, compare it."""
    logs = folder / f"trial-{trial.idx}"
    command = trial.command(logs, max_steps)
    reached = [run_and_kill(command, logs, step) for step in trial.kills]
    run_to_the_end(command)
    run = directory_of(logs)
    segments = read_record(run)["stretches"]
    killed_at = tuple(step for step in reached if step is not None)
    continued_from = tuple(segment["from_step"] for segment in segments[1:])
    whole = directory_of(folder / f"whole-{trial.precision}-{trial.seed}")
    found = differences(run, whole) if killed_at else ("it ended before it could be killed",)
    return Verdict(trial, killed_at, continued_from, found)


def make_whole_runs(folder: Path, trials: Sequence[Trial], max_steps: int, pool: ThreadPoolExecutor) -> None:
    """The uninterrupted runs that the trials are compared with."""
    kinds = sorted({(trial.precision, trial.seed) for trial in trials})
    commands = [
        Trial(0, precision, seed, ()).command(folder / f"whole-{precision}-{seed}", max_steps)
        for precision, seed in kinds
    ]
    list(pool.map(run_to_the_end, commands))


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """A row a trial."""
    table = Table("trial", "precision", "seed", "killed after steps", "went on from", "weights and metrics", box=None)
    for verdict in verdicts:
        trial = verdict.trial
        steps = [", ".join(map(str, part)) or "-" for part in (verdict.killed_at, verdict.continued_from)]
        outcome = f"differ: {', '.join(verdict.differences)}" if verdict.differences else "identical"
        table.add_row(str(trial.idx), trial.precision, str(trial.seed), *steps, outcome)
    return table


def main() -> int:
    """Run the trials that were asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, metavar="N", help="number of trials")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default 0)")
    parser.add_argument("--steps", type=int, default=120, help="of each run (default 120)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time (default: one a core)")
    arguments = parser.parse_args()
    # A processor without bf16 instructions is refused bf16 runs.
    precisions = ("32-true", "bf16-mixed") if probe().cpu_bf16 else ("32-true",)
    trials = draw(arguments.number, arguments.steps, arguments.seed, precisions)
    with tempfile.TemporaryDirectory(prefix="kill-trials-") as name, ThreadPoolExecutor(arguments.jobs) as pool:
        folder = Path(name)
        make_whole_runs(folder, trials, arguments.steps, pool)
        verdicts = list(pool.map(lambda trial: try_out(trial, folder, arguments.steps), trials))
    console = Console()
    console.print(verdict_table(verdicts))
    same = sum(not verdict.differences for verdict in verdicts)
    kills = sum(len(verdict.killed_at) for verdict in verdicts)
    console.print(f"{same} of {len(verdicts)} identical to the uninterrupted run, after {kills} kills", soft_wrap=True)
    return 0 if same == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
