"""What a search looks through: Hydra's interval(), range() and choices as dimensions that Optuna samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from depthlab.config.identity import REPETITION
from depthlab.config.metric_info import MetricInfo
from depthlab.config.nearest import nearest
from depthlab.config.schema import SearchConfig, TrainConfig
from depthlab.config.sweep_size import MOST_JOBS
from depthlab.errors import InputError
from depthlab.records.metrics import describe_task

if TYPE_CHECKING:
    from optuna import Trial

LOG_FROM = 100.0  # an interval whose ends are positive and this factor apart is searched on a logarithmic scale
DIGITS = 4  # significant ones of a value that is tried: nobody measures more of a rate, and somebody types it
TAGS = ("log", "linear")


@dataclass(frozen=True)
class Dimension:
    """One key that is searched.

    Args:
        key: as it is typed.
        low, high: the ends of an interval or a range, both included.
        step: between the values of a range; None for an interval.
        log: whether it is sampled on a logarithmic scale.
        whole: whether the values are integers.
        choices: the values of a choice as they are typed; empty for numbers.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = field(default=())

    def sample(self, trial: Trial) -> Any:
        """A value for the trial: the one that it has, or a new one."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.whole:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(self.key, low, high, step=step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def text(self, value: Any) -> str:
        """A sampled value as it is typed."""
        if self.choices:
            return str(value)
        if self.whole:
            return str(int(value))
        return repr(min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high))

    def words(self) -> str:
        """The values for a reader."""
        if self.choices:
            return ", ".join(self.choices)
        step = f" in steps of {self.step:g}" if self.step is not None else ""
        return f"{self.text(self.low)} to {self.text(self.high)}{step}{', on a logarithmic scale' if self.log else ''}"

    def ends(self) -> list[str]:
        """The values that say whether all between them can be run: every choice, or both ends."""
        return list(self.choices) or [self.text(self.low), self.text(self.high)]

    def as_dict(self) -> dict[str, Any]:
        """For files."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "step": self.step, "log": self.log, "whole": self.whole}


@dataclass(frozen=True)
class Question:
    """What a search looks for.

    Args:
        space: the keys that are searched.
        keys: how many trials and seeds.
        key: the objective's name in records, such as "val/err".
        metric: the objective.
        config: of the runs, but for the keys that are searched.
    """

    space: tuple[Dimension, ...]
    keys: SearchConfig
    key: str
    metric: MetricInfo
    config: TrainConfig

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Optuna's word for what is better."""
        return "minimize" if self.metric.better == "lower" else "maximize"

    def lines(self) -> list[str]:
        """What is going to be done."""
        keys = self.keys
        return [
            *(f"{each.key}: {each.words()}" for each in self.space),
            f"{self.key} ({self.metric.better} is better), mean over {keys.seeds} seeds; {keys.trials} trials, at most "
            f"{keys.trials * keys.seeds} runs; pruner: {keys.pruner}",
        ]


def ask(config: TrainConfig, space: Sequence[Dimension], keys: SearchConfig) -> Question:
    """The question that a search of these runs answers.

    Raises:
        InputError: the runs have no validation images, or the objective is no metric of theirs on these.
    """
    if config.rerun:
        raise InputError("rerun=true: a search repeats no run. Give it another name=... to begin anew.")
    task = describe_task(config.task.describe(2, config.metrics))  # names and directions; chance is in the records
    key = keys.objective or task.main.key("val")
    split, _, name = key.partition("/")
    if split == "test":
        raise InputError(
            f"search.objective={key}: no choice may read the test set, which is measured once at the end of a run. "
            f"Use {task.main.key('val')}."
        )
    known = [metric.key("val") for metric in task.metrics.values()]
    if key not in known:
        raise InputError(f"search.objective={key}: a metric of the task on validation images. {nearest(key, known)}")
    if config.data.fold is None and config.data.num_val(1000) == 0:
        raise InputError(
            f"search.objective={key}: the runs set no validation images aside. Give data.val_size=500, say, or folds."
        )
    return Question(tuple(space), keys, key, task.metrics[name], config)


def split(parts: Mapping[str, Override]) -> tuple[list[Dimension], list[str], list[str]]:
    """The dimensions, the overrides that every trial shares, and a line for each key that is left out.

    Args:
        parts: what was typed and what an experiment's file sweeps over, by key (see `sweep_size.sweep_parts`). The
            choices of a glob need overrides that were parsed with Hydra's loader.

    Raises:
        InputError: nothing is searched, or a key has no bounds.
    """
    dimensions, fixed, notes = [], [], []
    for key, override in parts.items():
        name = override.key_or_group
        if name == "hydra" or name.startswith(("hydra.", "hydra/")):
            continue
        if name.startswith("search."):
            if override.is_sweep_override():
                raise InputError(f"{override.input_line}: give one value. A search looks through keys of the runs.")
            continue
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif name in REPETITION:
            notes.append(f"{override.input_line} is left out: search.seeds says how often each configuration is run")
        else:
            dimensions.append(_dimension(key, override))
    if not dimensions:
        raise InputError(
            "hydra/sweeper=search: a search needs a key with bounds, such as 'optimizer.lr=interval(1e-3,1)' or "
            "model=plain20,resnet20. None was given."
        )
    return dimensions, fixed, notes


def read_values(dimensions: Sequence[Dimension], params: Mapping[str, Any]) -> list[str]:
    """The overrides of sampled values."""
    return [f"{each.key}={each.text(params[each.key])}" for each in dimensions]


def ends(space: Sequence[Dimension]) -> list[list[str]]:
    """Overrides in which each key has each of its ends once."""
    first = {each.key: each.ends()[0] for each in space}
    combinations = [first, *({**first, each.key: end} for each in space for end in each.ends()[1:])]
    return [[f"{key}={value}" for key, value in values.items()] for values in combinations]


def _dimension(key: str, override: Override) -> Dimension:
    value, typed = override.value(), str(override.input_line)
    if isinstance(value, IntervalSweep):
        return _interval(key, value, typed)
    if isinstance(value, RangeSweep):
        return _range(key, value, typed, _log(value.tags, typed))
    if isinstance(value, ChoiceSweep) and _log(value.tags, typed) is not None:
        raise InputError(f"{typed}: a choice has no scale. Leave tag() out.")
    choices = tuple(dict.fromkeys(str(choice) for choice in override.sweep_string_iterator()))
    if not choices:
        raise InputError(f"{typed}: no values.")
    return Dimension(key, choices=choices)


def _interval(key: str, sweep: IntervalSweep, typed: str) -> Dimension:
    low, high = sweep.start, sweep.end
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"{typed}: a search needs finite bounds, such as interval(0.001,1).")
    if not low < high:
        raise InputError(f"{typed}: the first bound must be below the second.")
    log = _log(sweep.tags, typed)
    whole = isinstance(low, int) and isinstance(high, int)
    return Dimension(key, low, high, log=_scale(low, high, log, typed), whole=whole)


def _range(key: str, sweep: RangeSweep, typed: str, log: bool | None) -> Dimension:
    """A range, which ends before its second bound, as Python's and Hydra's do."""
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in (sweep.start, sweep.stop)):
        raise InputError(f"{typed}: a search needs finite bounds, such as range(1,10).")
    if not sweep.step or not math.isfinite(sweep.step):
        raise InputError(f"{typed}: a range needs a finite step other than 0.")
    assert sweep.start is not None and sweep.stop is not None
    number = math.ceil((sweep.stop - sweep.start) / sweep.step)
    if not 0 < number <= MOST_JOBS:
        raise InputError(f"{typed}: {max(0, number):,} values. A search takes 1 to {MOST_JOBS:,}.")
    values = list(sweep.range())
    whole = all(isinstance(value, int) for value in values)
    low, high = min(values), max(values)
    if log and (not whole or abs(sweep.step) != 1):
        raise InputError(f"{typed}: a logarithmic range is of integers in steps of 1. Use tag(log, interval(...)).")
    return Dimension(key, low, high, abs(sweep.step), log=bool(log) and _scale(low, high, log, typed), whole=whole)


def _log(tags: set[str], typed: str) -> bool | None:
    """The scale that a tag asks for; None where there is no tag."""
    for name in tags:
        if name not in TAGS:
            raise InputError(f"{typed}: tag(log, ...) and tag(linear, ...) are known, {name} is not.")
    if len(tags) > 1:
        raise InputError(f"{typed}: one scale, log or linear.")
    return None if not tags else "log" in tags


def _scale(low: float, high: float, log: bool | None, typed: str) -> bool:
    if log and low <= 0:
        raise InputError(f"{typed}: a logarithmic scale begins above 0.")
    return low > 0 and high / low >= LOG_FROM if log is None else log
