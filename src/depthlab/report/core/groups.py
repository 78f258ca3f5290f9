"""Groups: runs of one recipe on one data set, which differ in seed and fold alone and may be averaged."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from depthlab.report.core.runs import Repetition, Run
from depthlab.report.core.statistics import Summary, summarize

# What tells the networks of one comparison apart; everything else must be equal between them.
NETWORK = ("model.name", "model.depth", "model.residual", "recipe")
# Where a network starts and what of it trains: runs that differ in these alone are of one comparison.
TRANSFER = ("model.weights", "model.drop_classifier", "model.freeze", "optimizer.backbone_lr_factor")
# The paper warms up its deepest networks only, so this may differ between depths that are compared.
FOLLOWS_DEPTH = ("schedule.warmup_steps",)
STRICT = (*NETWORK, "model.shortcut", *TRANSFER)
LOOSE = (*STRICT, *FOLLOWS_DEPTH)


@dataclass(frozen=True)
class Group:
    """One row of a table: every run of one recipe, whatever became of it."""

    runs: tuple[Run, ...]
    label: str
    sweep: str = ""

    @property
    def network(self) -> str:
        """The network's name."""
        return str(self.runs[0].record["model"]["name"])

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the runs share, without seed and fold."""
        return self.runs[0].config

    @property
    def depth(self) -> int:
        """Weighted layers; 0 for a network that has no such number."""
        return int(self.runs[0].record["model"]["depth"] or 0)

    @property
    def residual(self) -> bool:
        """Whether the network has shortcuts; True for one that is no residual network and no plain twin either."""
        return self.runs[0].record["model"]["residual"] is not False

    @property
    def kind(self) -> str:
        """What the network shares with others of another depth, such as `plain` or `residual (B), from weights`."""
        shortcut = self.config.get("model.shortcut")
        letter = "" if shortcut in (None, "A") else f" ({shortcut})"
        is_residual = self.runs[0].record["model"]["residual"]
        kind = self.network if is_residual is None else f"residual{letter}" if is_residual else "plain"
        return ", ".join([kind, *_start(self.config)])

    @property
    def finished(self) -> list[Run]:
        """The runs that enter statistics, by seed and fold."""
        return sorted((run for run in self.runs if run.status == "finished"), key=lambda run: run.repetition)

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
        seeds_said, folds_said = _counted(len(seeds), "seed"), _counted(len(folds), "fold")
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

    def errors(self, metric: str) -> dict[Repetition, float]:
        """From repetition to final error in percent, of the finished runs that have it."""
        errors = {run.repetition: run.error(metric) for run in self.finished}
        return {repetition: error for repetition, error in errors.items() if error is not None}

    def summary(self, metric: str) -> Summary | None:
        """The summary of a final error; None where no finished run has it."""
        errors = list(self.errors(metric).values())
        return summarize(errors) if errors else None


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
    return run.record["model"]["depth"] or 0, bool(run.record["model"]["residual"]), run.identity()


def _labels(runs: Sequence[Run]) -> list[str]:
    """The network's name; where several groups bear it, with what differs between those."""
    names = [str(run.record["model"]["name"]) for run in runs]
    labels = []
    for run, name in zip(runs, names, strict=True):
        twins = [other.config for other, its_name in zip(runs, names, strict=True) if its_name == name]
        details = describe(run.config, differing_keys(twins) or (["recipe"] if len(twins) > 1 else []))
        labels.append(f"{name} ({details})" if details else name)
    return labels


def _partition(groups: Sequence[Group], ignored: tuple[str, ...]) -> list[list[Group]]:
    parts: dict[object, list[Group]] = {}
    for group in groups:
        key = tuple(item for item in group.runs[0].identity() if item[0] not in ignored)
        parts.setdefault(key, []).append(group)
    return list(parts.values())


def _distinct(groups: Sequence[Group]) -> bool:
    return len({(group.kind, group.depth) for group in groups}) == len(groups)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _short(value: Any) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
