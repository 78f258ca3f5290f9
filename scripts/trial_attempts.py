"""One trial: a run, or a publication, that is struck at drawn moments, continued, and compared with a whole one."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moments import Moment, Watch
from trial_runs import NAME, act_as_job, act_as_publisher, compose, differences, directory_of, freeze, progress
from trial_starts import Forks, Start, cpu_seconds, handles_signals, start_process

from depthlab.errors import InputError
from depthlab.records.record import read_record
from depthlab.runs import exits

SEEDS = (1, 2)
PUBLISHING, PROCESS, PARALLEL, PARALLEL_PROCESSES = (
    *("publishing", "real process", "data-parallel", "real data-parallel"),
)
MADE_FROM = {PUBLISHING: "ordinary", PROCESS: "ordinary", PARALLEL_PROCESSES: PARALLEL}  # these runs
LEAST_PART = 0.01  # of a phase
MOST_STEPS = 11  # that a data-parallel run is let make before it is stopped


@dataclass(frozen=True)
class Trial:
    """A run, and where its starts are struck."""

    idx: int
    variant: str
    seed: int
    moments: tuple[Moment, ...]


class Bench:
    """Makes starts of runs, and the uninterrupted runs that trials are compared with.

    Args:
        folder: for everything that is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.forks = Forks(folder)
        self.import_seconds = 0.0  # of CPU time, up to the record of a real process
        self._wholes: dict[tuple[str, int], Path] = {}
        self._composed: dict[tuple[str, int], tuple[list[str], dict[str, Any]]] = {}
        self._published: tuple[Path, Path] | None = None

    def whole(self, variant: str, seed: int) -> Path:
        """The directory of an uninterrupted run."""
        if (variant, seed) not in self._wholes:
            logs = self.folder / f"whole-{variant}-{seed}"
            if variant in self.forks.extents:
                self.start(variant, seed, logs)
            else:  # the first time everything is imported, the second time the phases are measured
                self.forks.measure(variant, self._job(variant, seed, logs.with_name(f"warm-{logs.name}")))
                self.forks.measure(variant, self._job(variant, seed, logs))
            directory = directory_of(logs)
            if directory is None or read_record(directory).status != "finished":
                raise RuntimeError(f"{variant}: the uninterrupted run did not finish")
            self._wholes[variant, seed] = directory
        return self._wholes[variant, seed]

    def start(self, variant: str, seed: int, logs: Path, moment: Moment | None = None) -> Start:
        """Start a run below `logs` in a fork."""
        return self.forks.start(variant, self._job(variant, seed, logs), moment)

    def start_process(
        self, variant: str, seed: int, logs: Path, strike: Callable[[subprocess.Popen[bytes]], str | None]
    ) -> Start:
        """Start a run below `logs` as a person does."""
        logs.mkdir(parents=True, exist_ok=True)
        words, _ = self._compose(variant, seed)
        return start_process([*words, f"paths.log_dir={logs}"], self.folder, strike)

    def measure_imports(self) -> float:
        """The seconds of CPU time that a process takes up to its record."""
        if not self.import_seconds:
            self.start_process("ordinary", SEEDS[0], self.folder / "imports", self._await_record)
        return self.import_seconds

    def published(self) -> tuple[Path, Path]:
        """Two results folders: with one published run, and with two. What publishing does between is measured."""
        if self._published is None:
            logs, old, new = (self.folder / name for name in ("published-logs", "published-old", "published-new"))
            for target, seed in zip((old, new), SEEDS, strict=True):
                directory = self.whole("ordinary", seed)
                shutil.copytree(directory, logs / NAME / directory.name)
                self.forks.measure(PUBLISHING, self.publisher(target))
                if target == old:
                    shutil.copytree(old, new)
            self._published = (old, new)
        return self._published

    def publisher(self, results: Path) -> Callable[[Watch], int]:
        """What publishes two runs."""
        return functools.partial(act_as_publisher, self.folder / "published-logs", results)

    def _compose(self, variant: str, seed: int) -> tuple[list[str], dict[str, Any]]:
        if (variant, seed) not in self._composed:
            self._composed[variant, seed] = compose(variant, seed)
        return self._composed[variant, seed]

    def _job(self, variant: str, seed: int, logs: Path) -> Callable[[Watch], int]:
        frozen = freeze(self._compose(variant, seed)[1], logs)
        return functools.partial(act_as_job, frozen, variant == PARALLEL)

    def _await_record(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            self.import_seconds = cpu_seconds(process.pid) or self.import_seconds
            if directory_of(self.folder / "imports"):
                break
            time.sleep(0.02)


class Attempt:
    """One trial of a run below `logs`, while it goes on."""

    def __init__(self, bench: Bench, trial: Trial, logs: Path) -> None:
        self.bench = bench
        self.trial = trial
        self.logs = logs
        self.variant = MADE_FROM.get(trial.variant, trial.variant)
        self.whole = bench.whole(self.variant, trial.seed)
        self.struck_in: list[str] = []
        self.codes: list[int] = []
        self.wrong: list[str] = []
        self.refused = ""

    @property
    def outcome(self) -> str:
        """What came of it: identical, refused or wrong."""
        return "wrong" if self.wrong else "refused" if self.refused else "identical"

    def run(self) -> None:
        """Strike, continue, compare."""
        self._begin()
        for moment in self.trial.moments:
            before = progress(self.logs)
            ended = self._start(moment)
            while not (ended.struck_in or self.struck_in) and moment.part > LEAST_PART:
                # The run was over sooner than the one that was measured: again, with an earlier moment.
                self._judge_any(ended)
                self._begin()
                moment = replace(moment, part=moment.part / 2)
                ended = self._start(moment)
            if ended.struck_in:
                self.struck_in.append(ended.struck_in)
                self.codes.append(ended.code)
            self._judge_any(ended)
            self._judge(moment, ended, before)
            if not ended.struck_in or self.wrong:
                break
        if not self.wrong:
            ended = self._start(None)
            self._judge_any(ended)
            self._judge_last(ended)

    def _begin(self) -> None:
        """Make the folder as it is before the first start."""
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir()

    def _start(self, moment: Moment | None) -> Start:
        if moment and self.trial.variant in (PROCESS, PARALLEL_PROCESSES):
            strike = functools.partial(self._strike, moment)
            return self.bench.start_process(self.variant, self.trial.seed, self.logs, strike)
        return self.bench.start(self.variant, self.trial.seed, self.logs, moment)

    def _strike(self, moment: Moment, process: subprocess.Popen[bytes]) -> str | None:
        """Strike a real process: after so much CPU time, or where a data-parallel run has made so many steps.

        A stop signal waits until there are handlers.
        """
        steps = int((2 * moment.part - 1) * MOST_STEPS) if self.trial.variant == PARALLEL_PROCESSES else -1
        seconds = moment.part * self.bench.measure_imports()
        while process.poll() is None:
            is_time = cpu_seconds(process.pid) >= seconds if steps < 0 else last_step(self.logs) > steps
            if is_time and (moment.number == signal.SIGKILL or handles_signals(process.pid)):
                process.send_signal(moment.number)
                return phase_by_files(self.logs)
            time.sleep(0.005)
        return None

    def _judge_any(self, ended: Start) -> None:
        if ended.stray:
            self.wrong.append(f"{ended.stray} processes were left")
        if "Traceback" in ended.said:
            self.wrong.append(f"a traceback: {ended.said[-1500:]}")

    def _judge(self, moment: Moment, ended: Start, before: tuple[int, int, int]) -> None:
        """What is wrong after a start that was to be struck."""
        try:
            after = progress(self.logs)
        except InputError as error:
            self.wrong.append(f"the record was lost: {error}")
            return
        if any(now < then for now, then in zip(after, before, strict=True)):
            self.wrong.append(f"(checkpoint, steps, segments) were {before} and are {after}")
        if not ended.struck_in:
            if ended.code:
                self.wrong.append(f"exit code {ended.code} without a signal: {ended.said[-1500:]}")
        elif moment.number != signal.SIGKILL:
            self._judge_stop(moment, ended, after[0])

    def _judge_stop(self, moment: Moment, ended: Start, newest: int) -> None:
        directory = directory_of(self.logs)
        is_done = directory is not None and read_record(directory).is_done
        good = {exits.CONTINUE_ME}
        if is_done:
            good.add(exits.DONE)
        if ended.is_process and directory is None and moment.number == signal.SIGINT:
            good.add(exits.INTERRUPTED)
        if ended.code not in good:
            self.wrong.append(f"exit code {ended.code}: {ended.said[-1500:]}")
        step = max(ended.step, last_step(self.logs))
        if not is_done and newest < step:
            self.wrong.append(f"step {step} was taken, the newest checkpoint is of step {newest}")

    def _judge_last(self, ended: Start) -> None:
        """What is wrong with a run that was continued to its end."""
        directory = directory_of(self.logs)
        if ended.code in (exits.MISTAKE, exits.HELD) and "error:" in ended.said:
            self.refused = ended.said
        elif ended.code or directory is None:
            self.wrong.append(f"the last start ended with exit code {ended.code}: {ended.said[-1500:]}")
        else:
            self.wrong += differences(directory, self.whole)


class PublishingAttempt(Attempt):
    """A trial of `publish`: one of two runs is published already, and what is there is the old folder or the new."""

    def __init__(self, bench: Bench, trial: Trial, logs: Path) -> None:
        super().__init__(bench, trial, logs)
        self.states = bench.published()
        self.results = logs / "results"

    def _begin(self) -> None:
        super()._begin()
        shutil.copytree(self.states[0], self.results)

    def _start(self, moment: Moment | None) -> Start:
        return self.bench.forks.start(PUBLISHING, self.bench.publisher(self.results), moment)

    def _judge(self, moment: Moment, ended: Start, before: tuple[int, int, int]) -> None:
        found = contents(self.results / NAME)
        if found not in [contents(state / NAME) for state in self.states]:
            self.wrong.append(f"the folder is neither the old one nor the new: {sorted(found)}")

    def _judge_last(self, ended: Start) -> None:
        found, expected = contents(self.results), contents(self.states[1])
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if ended.code or different:
            self.wrong.append(f"exit code {ended.code}, different: {different} {ended.said[-1500:]}")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def last_step(logs: Path) -> int:
    """The last step in the curves of the run below `logs`, 0 where there is none; its row may be half written."""
    rows = [line for path in logs.rglob("metrics.csv") for line in path.read_text().split("\n")[1:-1]]
    return int(rows[-1].partition(",")[0]) if rows else 0


def phase_by_files(logs: Path) -> str:
    """The phase of a real process, as far as its files show it."""
    directory = directory_of(logs)
    if directory is None:
        return "import"
    if not last_step(logs):
        return "first step"
    return "end" if read_record(directory).is_done else "steps"
