"""The tables that every sweep has: networks, every value, comparisons, runs, and what differs between sweeps."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from depthlab.report.core.collection import Collection, Run
from depthlab.report.core.comparisons import Comparison, quantity
from depthlab.report.core.groups import Group, describe, differing_keys
from depthlab.report.core.statistics import Summary
from depthlab.report.core.table import Cell, Table
from depthlab.report.core.task_description import Metric, Task

FOLDS = (
    " Each fold is the validation set of one run; the folds' training images overlap, so intervals over folds are "
    "narrower than those over independent images."
)
# What the runs cost, where their records say so; medians over runs, which may have shared their machine.
COSTS = {"images_per_second": "img/s", "peak_memory_mib": "peak MiB"}


def shown_keys(groups: Sequence[Group]) -> list[tuple[Task, str]]:
    """Every key that a group has, with its task: the columns of the tables."""
    found: dict[tuple[str, str], tuple[Task, str]] = {}
    for group in groups:
        for key in group.measured_keys():
            found.setdefault((group.task.name, key), (group.task, key))
    return list(found.values())


def networks_table(groups: Sequence[Group]) -> Table:
    """One row a network: what it is, how many runs, and its final values as mean ± standard deviation."""
    differing = _telling_keys(groups)
    columns = shown_keys(groups)
    losses = [key for key in ("train/loss", "test/loss") if any(_has_loss(group, key) for group in groups)]
    sweeps = ["sweep"] if any(group.sweep for group in groups) else []
    folds = ["over"] if any(group.has_folds for group in groups) else []
    costs = [key for key in COSTS if any(group.median(key) is not None for group in groups)]
    rows = tuple(
        (
            *(group.sweep for _ in sweeps),
            group.network,
            *(describe(group.config, [key]).split("=", 1)[1] for key in differing),
            group.runs[0].record["model"].get("num_params"),
            group.runs[0].record["model"].get("num_macs"),
            _n(group),
            *(group.averaged_over() for _ in folds),
            *(cell_text(group, key) if group.task.name == task.name else None for task, key in columns),
            *(cell_text(group, key) if _has_loss(group, key) else None for key in losses),
            *(_whole(group.median(key)) for key in costs),
            other_runs(group),
        )
        for group in groups
    )
    titles = [task.heading(key) for task, key in columns]
    titles += ["training loss" if key.startswith("train") else "test loss" for key in losses]
    header = (*sweeps, "network", *differing, "parameters", "multiply-adds", "n", *folds, *titles)
    header = (*header, *(COSTS[key] for key in costs), "other runs")
    caption = (
        "Final values of the last weights, mean ± standard deviation over n runs. Where some runs settled and others "
        "stayed near chance, the runs are listed instead. A diverged run counts at chance."
        + (" img/s: median over runs, which may have shared their machine." if "images_per_second" in costs else "")
    )
    return Table("networks", caption + (FOLDS if folds else ""), header, rows)


def values_table(groups: Sequence[Group]) -> Table:
    """One row a network and metric, with the whole summary."""
    rows = []
    for task, key in shown_keys(groups):
        for group in groups:
            summary = group.summary(key) if group.task.name == task.name else None
            if summary:
                interval = (summary.low, summary.high, summary.minimum, summary.maximum)
                rows.append((task.heading(key), group.label, summary.n, summary.mean, summary.sd, *interval))
    header = ("metric", "network", "n", "mean", "sd", "95 % CI low", "95 % CI high", "min", "max")
    caption = (
        "Every final value of the last weights; the interval is that of the mean (t distribution), clipped to possible "
        "values, with a standard deviation of at least half an image."
    )
    return Table("errors", caption, header, tuple(rows))


def comparisons_table(comparisons: Sequence[Comparison]) -> Table:
    """One row a comparison: the difference, its interval, and the smallest difference these runs would show."""
    rows = tuple(
        (
            f"{c.first.label} - {c.second.label}",
            c.first.task.title(c.key),
            c.difference.mean,
            *(c.difference.interval or (None, None)),
            c.method,
            " and ".join(map(str, c.difference.n)),
            c.smallest,
        )
        for c in comparisons
    )
    header = ("difference", "metric", "points", "95 % CI low", "95 % CI high", "interval", "n", "smallest shown")
    expected = f"Of {len(rows)} such intervals about {len(rows) / 20:.0f} would exclude zero by chance. "
    caption = (
        "Exploratory: intervals of differences that were not declared in advance, without verdicts. "
        f"{expected if len(rows) > 9 else ''}Last column: the smallest true difference that such runs would show with "
        "power 0.8."
    )
    return Table("comparisons", caption, header, rows)


def configurations_table(names: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    """One row a key whose values differ between sweeps."""
    caption = "What differs between the sweeps; several values of one sweep stand together."
    return Table("configurations", caption, ("key", *names), tuple(rows))


def runs_table(found: Collection, out: Path) -> Table:
    """One row a run: what it was, what came out and how long it took; linked from the page in `out`."""
    runs = ordered(found)
    folds = ["fold"] if any(run.fold is not None for run in runs) else []
    columns: dict[tuple[str, str], tuple[Task, str]] = {}
    for run in runs:
        for split in ("train", "val", "test"):
            key = f"{split}/{run.task.primary}"
            if run.value(key) is not None:
                columns.setdefault((run.task.name, key), (run.task, key))
    rows = tuple(_run_row(run, folds, list(columns.values())) for run in runs)
    titles = (task.heading(key) for task, key in columns.values())
    header = ("run", "network", "seed", *folds, "status", "steps", *titles, "minutes", "device")
    return Table("runs", "Every run that was read.", header, rows, tuple(_link(run, out) for run in runs))


def ordered(found: Collection) -> list[Run]:
    """The runs in the order of the lists: by depth, plain before residual, by seed."""
    return sorted(found.runs, key=lambda run: (run.depth, bool(run.residual), run.network, run.repetition))


def cell_text(group: Group, key: str) -> str | None:
    """`6.97 ± 0.16`; for one run the value and that it is one; for runs on both sides of settling each of them."""
    settled = group.num_settled(key)
    if settled is not None:
        values = ", ".join(quantity(value, group.metric(key)) for value in sorted(group.values(key).values()))
        return f"{settled} of {len(group.values(key))} runs settled: {values}"
    return mean_and_deviation(group.summary(key), group.metric(key))


def mean_and_deviation(summary: Summary | None, metric: Metric | None = None) -> str | None:
    """`6.97 ± 0.16`; for one run the value and that it is one.

    Percentages have two decimals; other metrics as many as show three significant digits of the mean.
    """
    if summary is None:
        return None
    small = metric is not None and metric.unit != "%" and 0 < abs(summary.mean) < 1
    decimals = min(2 - math.floor(math.log10(abs(summary.mean))), 10) if small else 2
    deviation = " (one run)" if summary.sd is None else f" ± {summary.sd:.{decimals}f}"
    return f"{summary.mean:.{decimals}f}{deviation}"


def other_runs(group: Group) -> str | None:
    """The runs of a group that did not finish."""
    counts = [(status, group.count(status)) for status in ("diverged", "failed", "running")]
    return ", ".join(f"{number} {status}" for status, number in counts if number) or None


def _n(group: Group) -> int:
    """How many runs stand behind the group's values of its primary metric."""
    return max((len(group.values(f"{split}/{group.task.primary}")) for split in ("train", "test")), default=0)


def _has_loss(group: Group, key: str) -> bool:
    """Whether the loss is a column of its own: it is measured, and not the primary metric."""
    return group.task.primary != "loss" and bool(group.values(key))


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _telling_keys(groups: Sequence[Group]) -> list[str]:
    """The keys in which the groups differ; the recipe's hash where nothing else tells two of one name apart."""
    keys = differing_keys([group.config for group in groups])
    if "data.name" in keys and "data.fingerprint" in keys:
        keys.remove("data.fingerprint")  # other data have another fingerprint: the name says it better
    told = {(group.sweep, group.network, describe(group.config, keys)) for group in groups}
    return keys if len(told) == len(groups) else [*keys, "recipe"]


def _run_row(run: Run, folds: Sequence[str], columns: Sequence[tuple[Task, str]]) -> tuple[Cell, ...]:
    finished = run.status == "finished"
    values = [run.value(key) if finished and run.task.name == task.name else None for task, key in columns]
    seconds = run.record.get("wall_seconds")
    minutes = seconds / 60 if isinstance(seconds, int | float) else None
    repetition = (run.seed, *(run.fold for _ in folds))
    steps = int(run.record["steps"])
    return run.directory.name, run.network, *repetition, run.status, steps, *values, minutes, run.record.get("device")


def _link(run: Run, out: Path) -> str:
    """The way from the page to the run's directory; empty for a run in a file of many."""
    return Path(os.path.relpath(run.directory, out)).as_posix() if run.directory.is_dir() else ""
