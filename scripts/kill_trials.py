"""Kill runs at drawn moments, continue them, compare them with uninterrupted runs: python scripts/kill_trials.py N

Each trial trains a tiny network on the digits. It is killed (SIGKILL) one to three times, continued with the same
configuration each time, and then runs to the end. Weights, optimiser, metrics, curves and diagnostics must be equal to
those of the uninterrupted run, bit for bit; no record may be lost and no process left. The kills are spread over every
phase of a run, and over publishing. With --stop the runs are asked to stop instead (SIGTERM, SIGINT, SIGUSR1, SIGUSR2):
each start must then end with exit code 75 and a checkpoint of its last step.

Starts are forks of one process that has imported everything, and so is the second process of a data-parallel run. Kills
during imports strike real processes, as do a few stops of data-parallel runs. Linux only. Exit code 0 if nothing was
wrong.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moments import KINDS, Moment
from rich.console import Console
from rich.table import Table
from trial_attempts import (
    PARALLEL,
    PARALLEL_PROCESSES,
    PROCESS,
    PUBLISHING,
    SEEDS,
    Attempt,
    Bench,
    PublishingAttempt,
    Trial,
)

from depthlab.config.hardware import probe
from depthlab.records.atomic_files import replacing
from depthlab.records.environment import git_state

# How often a variant is drawn, of a hundred trials.
KILLED = {
    **{"ordinary": 25, "dense": 15, "ema": 13, "early stopping": 13, "compiled": 8, "bf16": 5, "accumulating": 4},
    **{"chunks": 5, PARALLEL: 4, PUBLISHING: 4, PROCESS: 4},
}
STOPPED = {
    **{"ordinary": 28, "accumulating": 24, "chunks": 20, "ema": 5, "early stopping": 5, PARALLEL: 10, PROCESS: 7},
    **{PARALLEL_PROCESSES: 1},
}
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
NUM_KILLS = (1, 1, 1, 2, 3)
# How often a phase of a forked run is drawn; a network is built in a moment.
PHASES = {
    **{"start": 1, "data": 1, "network": 0.3, "first step": 1, "steps": 1, "checkpoint writing": 1.5},
    **{"evaluation": 1, "record writing": 1.5, "end": 0.7},
}
COLUMNS = ("variant", "phase", "trials", "kills", "identical", "refused", "wrong")
SHOWN_EVERY = 20  # trials


@dataclass(frozen=True)
class Verdict:
    """What came of a trial: where it was struck, the exit codes of those starts, and what was wrong."""

    idx: int
    variant: str
    phases: tuple[str, ...]
    codes: tuple[int, ...]
    outcome: str  # identical, refused or wrong
    details: tuple[str, ...]
    cpu_seconds: float


def draw(idx: int, seed: int, is_stop: bool, variants: Mapping[str, int]) -> Trial:
    """A trial; the same one for the same number and seed."""
    chance = random.Random(f"{seed} {idx} {is_stop}")
    (variant,) = chance.choices(list(variants), list(variants.values()))
    phase = {PUBLISHING: PUBLISHING, PROCESS: "import", PARALLEL_PROCESSES: "import"}.get(variant)
    moments = [
        Moment(
            chance.choice(STOPS) if is_stop else signal.SIGKILL,
            phase or chance.choices(list(PHASES), list(PHASES.values()))[0],
            "time" if phase == "import" else chance.choice(KINDS),
            chance.random(),
        )
        for _ in range(1 if variant == PARALLEL_PROCESSES else chance.choice(NUM_KILLS))
    ]
    return Trial(idx, variant, chance.choice(SEEDS), tuple(moments))


def try_out(bench: Bench, trial: Trial) -> Verdict:
    """Strike a run as often as the trial says, let it end, compare it. What was wrong stays on disk."""
    before, folder = _seconds_of_children(), bench.folder / f"trial-{trial.idx}"
    attempt = (PublishingAttempt if trial.variant == PUBLISHING else Attempt)(bench, trial, folder)
    attempt.run()
    if not attempt.wrong:
        shutil.rmtree(folder)
    said = (*attempt.wrong, *([attempt.refused] if attempt.refused else []))
    seconds = round(_seconds_of_children() - before, 2)
    return Verdict(
        trial.idx, trial.variant, tuple(attempt.struck_in), tuple(attempt.codes), attempt.outcome, said, seconds
    )


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """A row for each variant and phase; a trial that was struck in several phases is in several rows."""
    table = Table(*COLUMNS, box=None)
    places = {(verdict.variant, phase) for verdict in verdicts for phase in verdict.phases or ("-",)}
    for variant, phase in sorted(places):
        there = [each for each in verdicts if each.variant == variant and phase in (each.phases or ("-",))]
        table.add_row(variant, phase, *_numbers(there, sum(each.phases.count(phase) for each in there)))
    table.add_row("all", "", *_numbers(verdicts, sum(len(each.phases) for each in verdicts)))
    return table


def _numbers(verdicts: Sequence[Verdict], kills: int) -> list[str]:
    outcomes = [each.outcome for each in verdicts]
    return [str(number) for number in (len(verdicts), kills, *(outcomes.count(name) for name in COLUMNS[4:]))]


def read_verdicts(path: Path) -> list[Verdict]:
    """The verdicts of a file that an earlier start has written."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["trials"]
    lists = ("phases", "codes", "details")
    return [Verdict(**{**row, **{key: tuple(row[key]) for key in lists}}) for row in rows]


def write_verdicts(path: Path, verdicts: Sequence[Verdict], arguments: argparse.Namespace) -> None:
    """Write what is known so far, and how to get it again."""
    asked = {"number": arguments.number, "seed": arguments.seed, "stop": arguments.stop}
    content = {**asked, "git": git_state(), "trials": [asdict(verdict) for verdict in verdicts]}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def run_trials(
    console: Console, folder: Path, arguments: argparse.Namespace, before: Sequence[Verdict]
) -> list[Verdict]:
    """The trials that are not done yet, after those that are."""
    verdicts, done = list(before), {verdict.idx for verdict in before}
    bench = Bench(folder)
    variants: Mapping[str, int] = STOPPED if arguments.stop else KILLED
    if arguments.only:
        variants = {name: variants[name] for name in arguments.only.split(",")}
    if not probe().cpu_bf16:  # a processor without bf16 instructions is refused such runs
        variants = {name: weight for name, weight in variants.items() if name != "bf16"}
    for idx in range(arguments.number):
        if idx in done:
            continue
        verdict = try_out(bench, draw(idx, arguments.seed, arguments.stop, variants))
        verdicts.append(verdict)
        if arguments.json:
            write_verdicts(arguments.json, verdicts, arguments)
        if verdict.outcome != "identical":
            console.print(f"trial {idx} ({verdict.variant}, {', '.join(verdict.phases)}): {verdict.outcome}")
            console.print("\n".join(verdict.details), markup=False, highlight=False, soft_wrap=True)
        if len(verdicts) % SHOWN_EVERY == 0:
            same = sum(each.outcome == "identical" for each in verdicts)
            console.print(f"{len(verdicts)} of {arguments.number} trials, {same} identical", highlight=False)
    return verdicts


def main() -> int:
    """Run the trials that were asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, metavar="N", help="number of trials")
    parser.add_argument("--stop", action="store_true", help="ask the runs to stop instead of killing them")
    parser.add_argument("--only", metavar="A,B", help="variants (default: all, as often as they are worth)")
    parser.add_argument("--seed", type=int, default=0, help="of the trials (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts there, after every trial")
    parser.add_argument("--resume", action="store_true", help="leave out the trials that are in FILE")
    arguments = parser.parse_args()
    known = STOPPED if arguments.stop else KILLED
    if unknown := set(arguments.only.split(",") if arguments.only else ()) - set(known):
        parser.error(f"no such variant: {', '.join(unknown)}. There are {', '.join(known)}.")
    if arguments.resume and not arguments.json:
        parser.error("--resume needs --json FILE")
    before = read_verdicts(arguments.json) if arguments.resume and arguments.json.exists() else []
    console, folder = Console(), Path(tempfile.mkdtemp(prefix="kill-trials-"))
    verdicts = run_trials(console, folder, arguments, before)
    gc.unfreeze()  # nanobind would call what stays in memory leaks
    console.print(verdict_table(verdicts))
    wrong = sum(verdict.outcome == "wrong" for verdict in verdicts)
    kills, seconds = (sum(len(each.phases) for each in verdicts), sum(each.cpu_seconds for each in verdicts))
    verb = "stops" if arguments.stop else "kills"
    same = sum(verdict.outcome == "identical" for verdict in verdicts)
    console.print(
        f"{same} of {len(verdicts)} identical to the uninterrupted run, after {kills} {verb}; "
        f"{seconds / max(1, len(verdicts)):.1f} s of CPU time a trial",
        soft_wrap=True,
    )
    if wrong:
        console.print(f"What the wrong ones left is in {folder}.", soft_wrap=True)
    else:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
