"""Kill a sweep of 8 short runs N times at random, launcher and jobs in turn: python scripts/kill_sweep.py N

After each kill of the launcher, and after each launch that ended because a job was killed, the same command is started
again. In the end every run must have finished, no finished run may have been repeated, no step before the last
checkpoint lost and no process left; the exit code is then 0. Processes are found in /proc: Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from depthlab.records.checkpoints import list_checkpoints
from depthlab.records.record import find_records, read_record

ROOT = Path(__file__).resolve().parent.parent
VICTIMS = ("launcher", "job")
SECONDS_FOR_A_START = 300.0
SECONDS_TO_DIE = 5.0
NETWORK = ("data=digits", "model=resnet20", "model.depth=8", "data.batch_size=64", "trainer=cpu", "logger=csv")
SAVING = ("trainer.val_every_steps=50", "logger.every_steps=5", "checkpoint.every_steps=5")


@dataclass
class Sweep:
    """The state of the sweep on disk, the kills so far and the errors that were found."""

    logs: Path
    command: list[str]
    num_runs: int
    kills: list[tuple[str, ...]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    started_at: float = 0.0
    # At the last start, by run: the newest checkpoint, the number of segments, the time of the end if it has one.
    saved_steps: dict[str, int] = field(default_factory=dict)
    num_segments: dict[str, int] = field(default_factory=dict)
    finished_at: dict[str, int] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command. Every unfinished run must continue from the checkpoint that is the newest now."""
        self.saved_steps = {path.name: newest_step(path) for path in find_records(self.logs)}
        self.num_segments = {path.name: len(read_record(path)["stretches"]) for path in find_records(self.logs)}
        self.finished_at = finished(self.logs)
        self.started_at = time.time()
        return subprocess.Popen(self.command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def check(self) -> None:
        """Compare the files with those before the last start. No process runs any more."""
        wait_until(lambda: not jobs_alive(self.logs), SECONDS_TO_DIE)
        self.wrong += [f"process {pid} was left" for pid in jobs_alive(self.logs)]
        for path in find_records(self.logs):
            before = self.finished_at.get(path.name)
            if before is not None and before != (path / "record.json").stat().st_mtime_ns:
                self.wrong.append(f"{path.name} was finished and repeated")
            starts = [segment["from_step"] for segment in read_record(path)["stretches"]]
            new = starts[self.num_segments.get(path.name, 0) :]
            if new and new != [self.saved_steps.get(path.name, 0)]:
                self.wrong.append(f"{path.name} began at {new}, its checkpoint was {self.saved_steps.get(path.name)}")


def newest_step(run: Path) -> int:
    """The step of a run's newest checkpoint, 0 while it has none."""
    return max((int(path.stem.partition("-")[2]) for path in list_checkpoints(run)), default=0)


def finished(logs: Path) -> dict[str, int]:
    """The finished runs, with the time of their records' last change."""
    runs = [path for path in find_records(logs) if read_record(path)["status"] == "finished"]
    return {path.name: (path / "record.json").stat().st_mtime_ns for path in runs}


def jobs_alive(logs: Path) -> list[int]:
    """The jobs: processes of runs whose command line names a file below `logs`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
            is_dead = "State:\tZ" in path.with_name("status").read_text()
        except OSError:
            continue
        if b"depthlab.runs.process" in text and f"{logs}/".encode() in text and not is_dead:
            found.append(int(path.parent.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; False if it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def is_training(sweep: Sweep) -> bool:
    """Whether a job of this launch has written a checkpoint."""
    return any(path.stat().st_mtime > sweep.started_at for path in sweep.logs.rglob("checkpoints"))


def kill_one(sweep: Sweep, launcher: subprocess.Popen[bytes], victim: str, delay_seconds: float) -> bool:
    """Kill the launcher or one of its jobs while it trains; False if there was nothing left to kill."""
    wait_until(lambda: is_training(sweep) or launcher.poll() is not None, SECONDS_FOR_A_START)
    time.sleep(delay_seconds)
    wait_until(lambda: bool(jobs_alive(sweep.logs)) or launcher.poll() is not None, SECONDS_FOR_A_START)
    if launcher.poll() is not None:
        return False
    try:
        os.kill(launcher.pid if victim == "launcher" else jobs_alive(sweep.logs)[0], signal.SIGKILL)
    except (IndexError, ProcessLookupError):  # the job ended a moment before
        return False
    if victim == "launcher":
        launcher.wait()
    sweep.kills.append((victim, str(len(finished(sweep.logs))), ", ".join(steps_of_unfinished(sweep.logs))))
    return True


def steps_of_unfinished(logs: Path) -> list[str]:
    """The newest checkpoints of the runs that are not finished."""
    return [str(newest_step(path)) for path in find_records(logs) if path.name not in finished(logs)]


def kill_and_continue(sweep: Sweep, kills: int, chance: random.Random) -> None:
    """Kill `kills` times, start the command again each time, and let the last one end."""
    victims = [VICTIMS[idx % len(VICTIMS)] for idx in range(kills)]
    chance.shuffle(victims)
    launcher = sweep.start()
    while victims:
        if kill_one(sweep, launcher, victims[0], chance.uniform(0, 2)):
            victims.pop(0)
        elif len(finished(sweep.logs)) == sweep.num_runs:
            sweep.wrong.append(f"all runs were finished with {len(victims)} kills to go: make them longer")
            break
        if launcher.poll() is not None:
            sweep.check()
            launcher = sweep.start()
    if launcher.wait():  # a job of this launch was killed
        sweep.check()
        launcher = sweep.start()
    if launcher.wait():
        sweep.wrong.append(f"the last continuation ended with exit code {launcher.returncode}")
    sweep.check()


def main() -> int:
    """Kill and continue one sweep; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, metavar="N", help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default 0)")
    parser.add_argument("--runs", type=int, default=8, help="in the sweep (default 8)")
    parser.add_argument("--steps", type=int, default=240, help="of each run (default 240)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-sweep-") as name:
        logs = Path(name)
        seeds = f"seed={','.join(str(seed) for seed in range(arguments.runs))}"
        typed = [*NETWORK, *SAVING, f"trainer.max_steps={arguments.steps}", f"paths.log_dir={logs}", "-m", seeds]
        command = [sys.executable, str(ROOT / "train.py"), *typed, "hydra.launcher.jobs_per_device=2"]
        sweep = Sweep(logs, command, arguments.runs)
        kill_and_continue(sweep, arguments.kills, random.Random(arguments.seed))
        num_finished = len(finished(logs))
    table = Table("killed", "finished before", "newest checkpoints of the others", box=None)
    for row in sweep.kills:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for line in sweep.wrong:
        console.print(f"wrong: {line}", soft_wrap=True, markup=False)
    console.print(f"{num_finished} of {arguments.runs} runs finished after {len(sweep.kills)} kills")
    return 0 if num_finished == arguments.runs and not sweep.wrong else 1


if __name__ == "__main__":
    sys.exit(main())
