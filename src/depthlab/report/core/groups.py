"""Groups: runs of one recipe on one data set, which differ in seed and fold alone and may be averaged."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from depthlab.report.core.collection import Repetition, Run
from depthlab.report.core.statistics import Sample, Summary, summarize
from depthlab.report.core.task_description import EMA, RUNNING, Metric, Task
from depthlab.shown_text import counted

# What tells the networks of one comparison apart; everything else must be equal between them.
NETWORK = ("model.name", "model.depth", "model.residual", "recipe")
# Where a network starts and what of it trains: runs that differ in these alone are of one comparison.
TRANSFER = ("model.weights", "model.drop_classifier", "model.freeze", "optimizer.backbone_lr_factor")
# The paper warms up its deepest networks only, so this may differ between depths that are compared.
FOLLOWS_DEPTH = ("schedule.warmup_steps",)
STRICT = (*NETWORK, "model.shortcut", *TRANSFER)
LOOSE = (*STRICT, *FOLLOWS_DEPTH)
# A run has settled below the first part of the chance error; above the second it has learned next to nothing.
SETTLED, LOST = 0.5, 0.75
LONGEST_LABEL = 200  # characters


@dataclass(frozen=True)
class Group:
    """One row of a table: every run of one recipe, whatever became of it."""

    runs: tuple[Run, ...]
    label: str
    sweep: str = ""

    @property
    def network(self) -> str:
        """The network's name."""
        return self.runs[0].network

    @property
    def task(self) -> Task:
        """What the runs measure."""
        return self.runs[0].task

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the runs share, without seed and fold."""
        return self.runs[0].config

    @property
    def depth(self) -> int:
        """Weighted layers; 0 for a network without such a number."""
        return self.runs[0].depth

    @property
    def residual(self) -> bool:
        """Whether the network has shortcuts; True for one that is neither residual nor a plain twin."""
        return self.runs[0].residual is not False

    @property
    def recipe_apart_from_depth(self) -> tuple[tuple[str, str], ...]:
        """What must be equal between groups that stand for one recipe at several depths."""
        return tuple(item for item in self.runs[0].identity() if item[0] not in STRICT)

    @property
    def kind(self) -> str:
        """What the network shares with others of another depth, such as `plain` or `residual (B), from weights`."""
        shortcut = self.config.get("model.shortcut")
        letter = "" if shortcut in (None, "A") else f" ({shortcut})"
        is_residual = self.runs[0].residual
        kind = self.network if is_residual is None else f"residual{letter}" if is_residual else "plain"
        return ", ".join([kind, *_start(self.config)])

    @property
    def finished(self) -> list[Run]:
        """The finished runs by seed and fold."""
        return self._with_status("finished")

    @property
    def diverged(self) -> list[Run]:
        """The diverged runs by seed and fold."""
        return self._with_status("diverged")

    @property
    def has_folds(self) -> bool:
        """Whether the runs hold out folds."""
        return any(run.fold is not None for run in self.runs)

    def repetitions(self) -> str:
        """What tells its runs apart: seeds, folds, or folds and seeds."""
        if not self.has_folds:
            return "seeds"
        return "folds and seeds" if len({run.seed for run in self.runs}) > 1 else "folds"

    def averaged_over(self) -> str:
        """What its means are over: `3 seeds`, `5 folds`, `5 folds x 3 seeds`; with what is missing of the latter."""
        seeds, folds = ({getattr(run, name) for run in self.finished} for name in ("seed", "fold"))
        seeds_said, folds_said = counted(len(seeds), "seed"), counted(len(folds), "fold")
        if not self.has_folds:
            return seeds_said
        if len(seeds) < 2:
            return folds_said
        part = "" if len(self.finished) == len(seeds) * len(folds) else f"{len(self.finished)} of "
        return f"{part}{folds_said} x {seeds_said}"

    def median(self, key: str) -> float | None:
        """The median over finished runs of a number in their records; None where they have none."""
        values = [float(value) for run in self.finished if (value := run.record.get(key)) is not None]
        return statistics.median(values) if values else None

    def count(self, *statuses: str) -> int:
        """How many runs have one of `statuses`."""
        return sum(run.status in statuses for run in self.runs)

    def values(self, key: str) -> dict[Repetition, float]:
        """From repetition to final value of the runs that have it.

        A diverged run counts at the chance value where the metric has one, because leaving it out would flatter the
        network.
        """
        values = {run.repetition: run.value(key) for run in self.finished}
        found = {repetition: value for repetition, value in values.items() if value is not None}
        chance = self.metric(key).chance
        if chance is not None and not key.startswith(EMA):
            found |= {run.repetition: chance for run in self.diverged if run.num_images(key) != 0}
        return dict(sorted(found.items()))

    def sample(self, key: str) -> Sample:
        """The values with what bounds them: possible values, and half an image as the least deviation."""
        metric = self.metric(key)
        numbers = [number for run in self.runs if (number := run.num_images(key))]
        floor = 50 / min(numbers) if numbers and metric.counts_images else 0.0
        low, high = metric.bounds
        return Sample(self.values(key), floor, low, high)

    def metric(self, key: str) -> Metric:
        """The metric behind a key."""
        return self.task.metric(key)

    def summary(self, key: str) -> Summary | None:
        """The summary of a final value; None where no run has it."""
        sample = self.sample(key)
        return summarize(sample) if sample.values else None

    def num_settled(self, key: str) -> int | None:
        """How many runs have settled where others have learned next to nothing; None where the runs agree."""
        metric = self.metric(key)
        if metric.chance is None:
            return None
        chance = metric.shortfall(metric.chance)
        errors = [metric.shortfall(value) for value in self.values(key).values()]
        settled = sum(error < SETTLED * chance for error in errors)
        return settled if settled and any(error > LOST * chance for error in errors) else None

    def measured_keys(self) -> list[str]:
        """The primary metric's keys that a run has, in the order in which they are shown."""
        name = self.task.primary
        keys = [f"train/{name}", f"train/{name}{RUNNING}", f"val/{name}", f"test/{name}"]
        return [key for key in (*keys, *(EMA + key for key in keys)) if self.values(key)]

    def _with_status(self, status: str) -> list[Run]:
        return sorted((run for run in self.runs if run.status == status), key=lambda run: run.repetition)


@dataclass(frozen=True)
class Setting:
    """Groups that differ in their network alone, so that comparing them means something."""

    groups: tuple[Group, ...]
    label: str

    def kinds(self) -> dict[str, list[Group]]:
        """Groups by kind, plain first, each by depth."""
        kinds: dict[str, list[Group]] = {}
        for group in sorted(self.groups, key=lambda group: (group.residual, group.kind, group.depth)):
            kinds.setdefault(group.kind, []).append(group)
        return kinds

    def missing(self) -> list[tuple[Group, Repetition]]:
        """Seeds, or seeds with folds, that other groups of the setting have and this one has no record of."""
        there = [{run.repetition for run in group.runs} for group in self.groups]
        everywhere = set().union(*there)
        return [(g, missing) for g, own in zip(self.groups, there, strict=True) for missing in sorted(everywhere - own)]


def group_runs(runs: Sequence[Run], sweep: str = "") -> list[Group]:
    """The groups in the order of depth, plain before residual.

    A label says what sets equal names apart, and the sweep where several are set side by side.
    """
    members: dict[object, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.repetition):
        members.setdefault(run.identity(), []).append(run)
    ordered = sorted(members.values(), key=lambda group: _order(group[0]))
    labels = _labels([group[0] for group in ordered])
    prefix = f"{sweep}: " if sweep else ""
    return [Group(tuple(group), prefix + label, sweep) for group, label in zip(ordered, labels, strict=True)]


def differing_keys(configs: Sequence[dict[str, Any]], ignored: Iterable[str] = NETWORK) -> list[str]:
    """The dotted keys in which the configurations differ, the network's own names left out."""
    keys = sorted(set().union(*configs) - set(ignored)) if configs else []
    return [key for key in keys if any(config.get(key) != configs[0].get(key) for config in configs)]


def find_settings(groups: Sequence[Group]) -> list[Setting]:
    """Groups that may be compared with one another, the largest setting first."""
    parts: list[list[Group]] = []
    for loose in _partition(groups, LOOSE):
        if _distinct(loose):
            parts.append(loose)
            continue
        for part in _partition(loose, STRICT):
            # What still stands for the same network twice differs in its name or recipe only: never pooled.
            parts.extend([part] if _distinct(part) else [[group] for group in part])
    parts.sort(key=len, reverse=True)
    keys = differing_keys([part[0].config for part in parts], LOOSE)
    return [Setting(tuple(part), describe(part[0].config, keys)) for part in parts]


def describe(config: dict[str, Any], keys: Sequence[str]) -> str:
    """`key=value, ...` with short keys."""
    return ", ".join(f"{key.split('.')[-1]}={_short(config.get(key))}" for key in keys)


def _start(config: dict[str, Any]) -> list[str]:
    """Words for the weights that a network starts from; none where they are random."""
    if config.get("model.weights") is None:
        return []
    others = [key for key in ("model.freeze", "optimizer.backbone_lr_factor") if key in config]
    return ["from weights", *(describe(config, [key]) for key in others)]


def _order(run: Run) -> tuple[Any, ...]:
    return run.depth, bool(run.residual), run.identity()


def _labels(runs: Sequence[Run]) -> list[str]:
    """The network's name; where several groups bear it, with what differs between those."""
    names = [run.network for run in runs]
    labels: list[str] = []
    for run, name in zip(runs, names, strict=True):
        twins = [other.config for other, its_name in zip(runs, names, strict=True) if its_name == name]
        details = describe(run.config, differing_keys(twins) or (["recipe"] if len(twins) > 1 else []))
        label = f"{name} ({details})" if details else name
        labels.append(label if len(label) <= LONGEST_LABEL else f"{label[:LONGEST_LABEL]}... ({len(labels) + 1})")
    return labels


def _partition(groups: Sequence[Group], ignored: tuple[str, ...]) -> list[list[Group]]:
    parts: dict[object, list[Group]] = {}
    for group in groups:
        key = tuple(item for item in group.runs[0].identity() if item[0] not in ignored)
        parts.setdefault(key, []).append(group)
    return list(parts.values())


def _distinct(groups: Sequence[Group]) -> bool:
    return len({(group.kind, group.depth) for group in groups}) == len(groups)


def _short(value: Any) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
