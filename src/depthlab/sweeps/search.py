"""The trials of a search: configurations that Optuna proposes, each run at several seeds, until so many are tried."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlab.config.check import check
from depthlab.config.hardware import Hardware
from depthlab.config.schema import TrainConfig
from depthlab.errors import InputError
from depthlab.records.curve_file import FILE_NAME as CURVES
from depthlab.records.curve_file import read_curves
from depthlab.records.metrics import describe
from depthlab.records.record import read_record
from depthlab.sweeps.job import RESULTS, Entry, Job, State
from depthlab.sweeps.preflight import Request, check_all, check_code, examine, freeze_job
from depthlab.sweeps.search_space import Question, read_values
from depthlab.sweeps.search_study import make_sampler, summarize, trials_left_running, write_summary
from depthlab.sweeps.sweep_tables import spread_text

if TYPE_CHECKING:
    from optuna import Study, Trial


@dataclass(frozen=True)
class JobMaker:
    """Makes the jobs of trials.

    Args:
        compose: a request from overrides.
        fixed: the overrides that all trials share.
        hardware: what this machine computes on.
        configs: the folder in which `freeze` keeps the configurations of one start.
        num_threads: CPU threads of a process.
        snapshot: the digest of the snapshot of the code there.
    """

    compose: Callable[[Sequence[str]], Request]
    fixed: Sequence[str]
    hardware: Hardware
    configs: Path
    num_threads: int
    snapshot: str | None

    def make(self, idx: int, name: str, seed: int, overrides: Sequence[str]) -> Job:
        """A job, its configuration frozen.

        Raises:
            InputError: it cannot run, or there is a run of other code in its place.
        """
        words = [*(word for word in self.fixed if not word.startswith("seed=")), *overrides, f"seed={seed}"]
        (job,), _ = check_all([self.compose(words)], self.hardware)
        job = replace(job, idx=idx, label=f"{name} {job.label} {' '.join(overrides)}")
        check_code([job])
        freeze_job(self.configs, job, self.num_threads, self.snapshot)
        return job

    def command(self, overrides: Sequence[str]) -> str:
        """What a person types to run the configuration of a trial."""
        return shlex.join([*self.compose(self.fixed).prefix, *self.fixed, *overrides])


@dataclass(frozen=True)
class Tried:
    """A run of an earlier trial."""

    label: str
    config: TrainConfig
    directory: Path


def tried(study: Study, folder: Path, code: str) -> list[Tried]:
    """The runs of the trials so far that are in `folder` and can be read; `code` is what was typed for that key."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        for name in trial.user_attrs.get("runs", ()):
            try:
                config = check(read_record(folder / name).config)
            except InputError:
                continue
            found.append(Tried(f"trial {trial.number + 1}, {name}", replace(config, code=code), folder / name))
    return found


@dataclass
class Attempt:
    """A trial under way: its overrides, what its seeds have given, and the run that goes on."""

    trial: Trial
    overrides: list[str]
    entry: Entry | None = None
    values: list[float | None] = field(default_factory=list)  # None: diverged, and nobody knows how bad that is
    runs: list[str] = field(default_factory=list)
    num_diverged: int = 0
    reported: int = 0  # the step of the last validation that the pruner was told of


class Search:
    """The source of a queue's jobs.

    The seeds of a trial run one after another, and several trials at a time where there are places. The first seed's
    validations decide whether a trial is pruned.

    Args:
        study: of Optuna, with what was tried before.
        question: what is looked for.
        jobs: makes the jobs.
        num_places: jobs at a time.
        folder: where search.json goes.
        say: prints a line.
    """

    def __init__(
        self,
        study: Study,
        question: Question,
        jobs: JobMaker,
        num_places: int,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self.study, self.question, self.jobs = study, question, jobs
        self._num_places, self._folder, self._say = num_places, folder, say
        self._open = [self._attempt(trial) for trial in trials_left_running(study)]

    def more(self, num_open: int) -> list[Entry]:
        """A job for each free place: the next seed of a trial under way, or the first one of a new trial."""
        found: list[Entry] = []
        while num_open + len(found) < self._num_places:
            attempt = next((each for each in self._open if each.entry is None), None) or self._ask()
            if attempt is None:
                break
            found += self._begin(attempt)
        return found

    def ended(self, entry: Entry) -> None:
        """Take a run's result. What a signal stopped stays open, for the next start of the search."""
        attempt = self._attempt_of(entry)
        if attempt is None:
            return  # pruned before
        if entry.state in RESULTS:
            self._take(attempt, entry)
        elif entry.state is State.FAILED:
            self._tell(attempt, "FAIL", entry.reason)

    def look(self, running: Sequence[Entry]) -> None:
        """Prune trials whose latest validation is hopeless."""
        for entry in running:
            attempt = self._attempt_of(entry)
            if attempt is not None and not attempt.values and (why := self._pruned(attempt, entry)):
                entry.drop()
                self._tell(attempt, "PRUNED", why)

    def summary(self) -> dict[str, Any]:
        """What is known so far, as search.json has it."""
        return summarize(self.study, self.question, self.jobs.command)

    @property
    def is_done(self) -> bool:
        """Whether every trial has ended, and none by a failure."""
        states = [trial.state.name for trial in self.study.get_trials(deepcopy=False)]
        return len(states) >= self.question.keys.trials and set(states) <= {"COMPLETE", "PRUNED"}

    def _attempt_of(self, entry: Entry) -> Attempt | None:
        return next((attempt for attempt in self._open if attempt.entry is entry), None)

    def _ask(self) -> Attempt | None:
        number = len(self.study.get_trials(deepcopy=False))
        if number >= self.question.keys.trials:
            return None
        self.study.sampler = make_sampler(self.question.keys.seed, number)
        attempt = self._attempt(self.study.ask())
        self._open.append(attempt)
        return attempt

    def _attempt(self, trial: Trial) -> Attempt:
        """Samples the values that the trial does not have yet; a kill may have left it with some of them."""
        params = {each.key: each.sample(trial) for each in self.question.space}
        reported = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        return Attempt(trial, read_values(self.question.space, params), reported=max(reported, default=0))

    def _begin(self, attempt: Attempt) -> list[Entry]:
        """The run of the trial's next seed, unless it is done already."""
        try:
            job = self._job(attempt)
            entry = attempt.entry = examine([job])[0]
            check_code([job])
        except InputError as error:
            self._tell(attempt, "FAIL", str(error))
            return []
        if entry.state in RESULTS:
            self._take(attempt, entry)
            return []
        return [entry]

    def _job(self, attempt: Attempt) -> Job:
        number, seed_idx = attempt.trial.number, len(attempt.values)
        idx = number * self.question.keys.seeds + seed_idx
        return self.jobs.make(idx, f"trial {number + 1}", self.question.config.seed + seed_idx, attempt.overrides)

    def _take(self, attempt: Attempt, entry: Entry) -> None:
        """The result of a seed: decides about the trial, ends it, or leaves it to the next seed."""
        directory = entry.job.directory
        record = read_record(directory)
        if not attempt.values and (why := self._pruned(attempt, entry)):
            self._tell(attempt, "PRUNED", why)
            return
        value = record.metrics.get(self.question.key)
        if record.status == "diverged" or value is None:
            attempt.num_diverged += 1
            metric = describe(record).metrics.get(self.question.metric.name, self.question.metric)
            value = metric.chance if metric.chance is not None else metric.max
        attempt.values.append(value)
        attempt.runs.append(directory.name)
        attempt.entry = None
        if None in attempt.values:
            self._tell(attempt, "PRUNED", "diverged, which counts as worse than every other trial")
        elif len(attempt.values) == self.question.keys.seeds:
            self._tell(attempt, "COMPLETE", "")

    def _pruned(self, attempt: Attempt, entry: Entry) -> str | None:
        """Tell the pruner of new validations of the first seed; why the trial is hopeless, None where it is not."""
        trial, job = attempt.trial, entry.job
        for step, value in _validations(job.directory, self.question.key):
            if step <= attempt.reported or step >= job.config.trainer.max_steps or not math.isfinite(value):
                continue
            trial.report(value, step)
            attempt.reported = step
            if trial.should_prune():
                return f"pruned at step {step:,}, with {self.question.metric.show(value)}"
        return None

    def _tell(self, attempt: Attempt, state: str, why: str) -> None:
        from optuna.trial import TrialState

        trial, metric = attempt.trial, self.question.metric
        values = [value for value in attempt.values if value is not None]
        mean = statistics.fmean(values) if state == "COMPLETE" else None
        cut = [attempt.entry.job.directory.name] if attempt.entry is not None else []
        notes = {"values": values, "runs": [*attempt.runs, *cut], "num_diverged": attempt.num_diverged, "why": why}
        for name, note in notes.items():
            trial.set_user_attr(name, note)
        self.study.tell(trial, mean, TrialState[state])
        self._open.remove(attempt)
        said = why or spread_text(values, metric)
        if attempt.num_diverged and mean is not None:
            said += f"; {attempt.num_diverged} of {len(values)} runs diverged and count at chance"
        best = ", the best so far" if mean is not None and self.study.best_trial.number == trial.number else ""
        self._say(f"trial {trial.number + 1}/{self.question.keys.trials}: {' '.join(attempt.overrides)}: {said}{best}")
        write_summary(self._folder, self.summary())


def _validations(directory: Path, key: str) -> list[tuple[int, float]]:
    """What the run in `directory` has measured so far; nothing before its first row is whole."""
    if not (directory / CURVES).exists():
        return []
    try:
        return read_curves(directory).get(key, [])
    except InputError:
        return []
