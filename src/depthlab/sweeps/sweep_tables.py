"""What is printed before a sweep and after it: the plan, the results, the failures."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from depthlab.config.console import TextConsole
from depthlab.config.identity import name_repetition
from depthlab.config.metric_info import MetricInfo
from depthlab.records.directory import holder
from depthlab.records.metrics import common_metric, describe
from depthlab.records.record import FILE_NAME, Record, read_record
from depthlab.shown_text import lines, one_line
from depthlab.sweeps.job import RESULTS, Entry, State
from depthlab.sweeps.live_view import clock
from depthlab.sweeps.run_status import results
from depthlab.sweeps.runtime_estimate import Estimates, free_bytes, sweep_seconds

SPLITS = ("test", "val", "train")
BEST_TRIALS = 10  # of a search, that are printed


def plan_lines(entries: Sequence[Entry], known: Estimates, num_places: int) -> Iterator[str]:
    """What each job is about to do, the disk space and the time: everything that is known before the start."""
    for entry in entries:
        yield f"{entry.job.label}: {_intention(entry)} -> {entry.job.directory}"
    waiting = [entry for entry in entries if entry.state not in RESULTS]
    if not waiting:
        yield f"all {len(entries)} jobs are done: nothing to train"
        return
    times = [known.job_seconds(entry) for entry in waiting]
    seconds = sweep_seconds([time or 0.0 for time in times], [entry.job.num_devices for entry in waiting], num_places)
    sizes = [known.job_bytes(entry.job) for entry in waiting]
    needed = sum(size or 0 for size in sizes)
    free = free_bytes(entries[0].job.directory)
    yield f"{len(waiting)} of {len(entries)} jobs to run, {num_places} at a time"
    yield f"time: {_as_far_as_known(times, clock(seconds))}"
    yield f"disk: {_size(free)} free, checkpoints need {_as_far_as_known(sizes, _size(needed))}"
    if needed > free:
        yield f"warning: {entries[0].job.directory.parent} has too little space. Free some, or set paths.log_dir=..."


def results_table(entries: Sequence[Entry]) -> Table:
    """One row a recipe: runs that differ in seed and fold alone, their metrics as mean ± sample standard deviation."""
    groups = _by_recipe(entries)
    common = common_metric([record for records in groups.values() for record in records])
    table = Table(box=None, pad_edge=False)
    titles = [f"{common.key(split)} {common.unit}".rstrip() if common else split for split in SPLITS]
    for name in ("model", "data", "runs", *titles, "diverged"):
        table.add_column(Text(one_line(name)), justify="left" if name in ("model", "data") else "right")
    for recipe, records in groups.items():
        finished = [record for record in records if record.status == "finished"]
        metric = describe(records[0]).main
        cells = [_mean(finished, metric, split, with_unit=common is None) for split in SPLITS]
        diverged = len(records) - len(finished)
        name = str(records[0].data.get("name", "-"))
        row = (recipe[0], name, str(len(finished)), *cells, str(diverged or "-"))
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table


def print_outcome(console: TextConsole, entries: Sequence[Entry], folder: Path | None) -> None:
    """The table of results, then what failed, why, and the last lines of its log."""
    if any(entry.state in RESULTS for entry in entries):
        console.print()
        console.print(results_table(entries))
    failed = [entry for entry in entries if entry.state not in RESULTS]
    if not failed:
        return
    _say(console, f"\n{len(failed)} of {len(entries)} jobs did not finish; the same command continues them.")
    for entry in failed:
        state = "not started" if entry.state is State.WAITING else entry.state
        _say(console, f"  {entry.job.label}: {state}{': ' if entry.reason else ''}{entry.reason}")
        for line in entry.tail if entry.state is State.FAILED else []:
            _say(console, f"      {line}")
    if folder is not None:
        _say(console, f"Logs: {folder / 'jobs'}")


def print_search(console: TextConsole, summary: Mapping[str, Any], folder: Path) -> None:
    """The best trials of a search, and the command to type; of a search that was stopped, those so far."""
    trials, metric = summary["trials"], MetricInfo(**summary["metric"])
    complete = [trial for trial in trials if trial["value"] is not None]
    if complete:
        console.print()
        console.print(search_table(complete, metric))
    counts = Counter(trial["state"] for trial in trials)
    states = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    _say(console, f"{len(trials)} of {summary['search']['trials']} trials: {states or 'none'}")
    if best := summary["best"]:
        text = spread_text(best["values"], metric)
        _say(console, f"best: {text}, as the best of {len(complete)} better than it would be with other seeds")
        _say(console, f"command: {summary['command']}")
        _say(console, f"page: python -m depthlab report {folder}")


def search_table(complete: Sequence[Mapping[str, Any]], metric: MetricInfo) -> Table:
    """The best complete trials of a search, the best one first."""
    table = Table(box=None, pad_edge=False)
    for name in ("trial", *complete[0]["params"], f"val {metric.title} {metric.unit}".rstrip(), "diverged"):
        table.add_column(Text(name), justify="right")
    ordered = sorted(complete, key=lambda trial: trial["value"], reverse=metric.better == "higher")
    for trial in ordered[:BEST_TRIALS]:
        spread = f" ± {metric.number(statistics.stdev(trial['values']))}" if len(trial["values"]) > 1 else ""
        diverged = str(trial["num_diverged"] or "")
        table.add_row(str(trial["number"]), *trial["params"].values(), metric.number(trial["value"]) + spread, diverged)
    return table


def spread_text(values: Sequence[float], metric: MetricInfo) -> str:
    """`validation error 3.21 ± 0.40 % (3 seeds)`."""
    spread = f" ± {metric.number(statistics.stdev(values))}" if len(values) > 1 else ""
    seeds = "1 seed" if len(values) == 1 else f"{len(values)} seeds"
    value = f"{metric.number(statistics.fmean(values))}{spread} {metric.unit}".rstrip()
    return f"validation {metric.title} {value} ({seeds})"


def _intention(entry: Entry) -> str:
    if entry.state is State.HELD:
        return f"held by {holder(entry.job.directory)}"
    if not (entry.job.directory / FILE_NAME).exists():
        return "new"
    record = read_record(entry.job.directory)
    if entry.state is State.FINISHED:
        return f"already finished, {_test_result(record)}"
    if entry.state is State.DIVERGED:
        return f"already diverged after {record.steps:,} steps"
    if entry.job.config.rerun and record.is_done:
        return f"{record.status}, to be moved aside and repeated (rerun=true)"
    return f"unfinished ({record.status}, {record.steps:,} steps), to be continued"


def _by_recipe(entries: Sequence[Entry]) -> dict[tuple[str, str], list[Record]]:
    """The records of finished jobs by label without seed and fold, and by recipe: a name can be given twice."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for entry in entries:
        for record in results([entry.job]):
            config = entry.job.config
            label = entry.job.label.replace(f" {name_repetition(config.seed, config.data.fold)}", "", 1)
            groups.setdefault((label, entry.job.identity.recipe), []).append(record)
    return groups


def _mean(records: Sequence[Record], metric: MetricInfo, split: str, with_unit: bool) -> str:
    values = [record.metrics.get(metric.key(split)) for record in records]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    deviation = f" ± {metric.number(statistics.stdev(known))}" if len(known) > 1 else ""
    unit = f" {metric.unit} {metric.title}".rstrip() if with_unit else ""
    return f"{metric.number(statistics.fmean(known))}{deviation}{unit}"


def _test_result(record: Record) -> str:
    metric = describe(record).main
    return f"test {metric.title} {metric.show(record.metrics.get(metric.key('test')))}"


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _as_far_as_known(values: Sequence[float | None], total: str) -> str:
    """`total` of what is known of each job, and what it is from."""
    unknown = values.count(None)
    if unknown == len(values):
        return "- (known once a run of the same network and data has finished here)"
    if unknown:
        return f"at least {total} ({unknown} of {len(values)} jobs are of a kind that has not finished here yet)"
    return f"{total} (from finished runs of the same network and data)"


def _say(console: TextConsole, text: str) -> None:
    console.print(lines(text), soft_wrap=True, markup=False, highlight=False)
