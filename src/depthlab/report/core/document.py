"""What a report says, before it is Markdown, HTML or lines in a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthlab.config.identity import name_repetition
from depthlab.report.core.figures import Figure
from depthlab.report.core.groups import Group, Setting, differing_keys
from depthlab.report.core.report_tables import Cell, Table
from depthlab.report.core.runs import Collection, Run
from depthlab.report.depth_study.claims import Statement
from depthlab.report.depth_study.published import Verdict

MOST_NAMED = 4  # keys in a question
DEPTH = "Do deeper plain networks train worse than shallower ones, and do shortcuts cure it?"


@dataclass(frozen=True)
class Document:
    """The parts of a report in the order in which they are read."""

    title: str
    question: str
    summary: str
    statements: tuple[tuple[str, tuple[Statement, ...]], ...]
    verdicts: tuple[Verdict, ...]
    from_paper: tuple[str, ...]
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    comparisons: tuple[str, ...]
    missing: tuple[str, ...]
    left_out: tuple[str, ...]
    runs: Table
    links: tuple[str, ...]
    commands: tuple[str, ...]
    conditions: tuple[tuple[str, str], ...]


def question(groups: Sequence[Group]) -> str:
    """What the runs ask: about depth where plain and residual networks differ in it, else about what else differs."""
    by_network: dict[str, list[Group]] = {}
    for group in groups:
        by_network.setdefault(group.network, []).append(group)
    keys = list(dict.fromkeys(k for same in by_network.values() for k in differing_keys([g.config for g in same])))
    if keys:
        what = _listed(keys, "or") if len(keys) <= MOST_NAMED else f"a change of {len(keys)} keys"
        return f"What difference does {what} make to {_listed(list(by_network), 'and')}?"
    kinds = {group.kind for group in groups}
    if "plain" in kinds and len(kinds) > 1 and len({group.depth for group in groups}) > 1:
        return DEPTH
    if len(by_network) > 1:
        return f"How do {_listed(list(by_network), 'and')} compare?"
    return f"How well does {next(iter(by_network))} do?"


def _listed(names: Sequence[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def summary_line(found: Collection) -> str:
    """How many runs there are and what became of them, in one sentence."""
    states = [(status, len(found.with_status(status))) for status in ("finished", "diverged", "failed", "running")]
    counts = ", ".join(f"{number} {status}" for status, number in states if number)
    data = sorted({f"{run.record['data']['name']}, {_planned(run):,} steps" for run in found.runs})
    left_out = f", {len(found.left_out)} left out" if found.left_out else ""
    return f"{len(found.runs)} runs ({counts}{left_out}) on {'; '.join(data)}."


def missing_runs(found: Collection, settings: Sequence[Setting], planned: Sequence[str]) -> list[str]:
    """A line for every run that is not in the statistics although it was started, planned, or others let expect it."""
    lines = [_unfinished(run) for run in found.with_status("running", "failed", "diverged")]
    lines += [f"{name}: planned, not started" for name in planned]
    for setting in settings:
        lines += [
            f"{group.label} {name_repetition(*missing)}: no record, though other networks have it"
            for group, missing in setting.missing()
            if f"{group.network} {name_repetition(*missing)}" not in planned
        ]
    return lines


def ordered(found: Collection) -> list[Run]:
    """The runs in the order of the lists: by depth, plain before residual, by seed."""

    def place(run: Run) -> tuple[int, bool, tuple[int, ...]]:
        return run.record["model"]["depth"] or 0, bool(run.record["model"]["residual"]), run.repetition

    return sorted(found.runs, key=place)


def runs_table(found: Collection) -> Table:
    """One row a run, with what it was, what came out and how long it took."""
    folds = ["fold"] if any(run.fold is not None for run in found.runs) else []
    rows = tuple(_run_row(run, folds) for run in ordered(found))
    errors = ("train error", "val error", "test error")
    header = ("run", "network", "seed", *folds, "status", *errors, "minutes", "device")
    return Table("runs", "Every run; errors in percent.", header, rows)


def run_links(found: Collection, out: Path) -> list[str]:
    """For each row of the runs' table the way from the page to the run's directory."""
    return [Path(os.path.relpath(run.directory, out)).as_posix() for run in ordered(found)]


def commands(found: Collection) -> list[str]:
    """The commands that started the runs, each once."""
    return list(dict.fromkeys(str(run.record["command"]) for run in found.runs))


def conditions(found: Collection) -> list[tuple[str, str]]:
    """Hardware, precision, time, versions and commits, each with what it was in all runs."""
    seconds = [float(run.record.get("wall_seconds") or 0) for run in found.runs]
    rows = [
        ("device", _values(run.record.get("device") for run in found.runs)),
        ("precision", _values(run.record.get("precision") for run in found.runs)),
        ("processes", _values(run.record.get("num_processes") for run in found.runs)),
        ("threads", _values(run.record.get("num_threads") for run in found.runs)),
        ("wall time", f"{duration(sum(seconds))} in all, {duration(max(seconds))} the longest run"),
        (
            "images a second",
            _range([run.record.get("images_per_second") for run in found.with_status("finished")]),
        ),
        ("commit", _values(_commit(run) for run in found.runs)),
    ]
    packages = sorted({package for run in found.runs for package in run.record.get("versions") or {}})
    rows += [(p, _values((run.record.get("versions") or {}).get(p) for run in found.runs)) for p in packages]
    return [(name, value) for name, value in rows if value]


def duration(seconds: float) -> str:
    """Seconds as people say them: `42 s`, `3.5 min`, `2.1 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def verdict_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A sentence for each verdict; what is not comparable for one reason is said once."""
    for verdict in verdicts:
        if verdict.word != "not comparable":
            yield (
                f"{verdict.group.label}, {verdict.metric}: {verdict.word} "
                f"({verdict.source} {verdict.published:g}; {verdict.reason})"
            )
    reasons: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        if verdict.word == "not comparable":
            reasons.setdefault((verdict.source, verdict.reason), []).append(verdict.group.label)
    for (source, reason), labels in reasons.items():
        yield f"not comparable with {source}: {', '.join(dict.fromkeys(labels))} ({reason})"


def _run_row(run: Run, folds: Sequence[str]) -> tuple[Cell, ...]:
    metrics = ("train/err", "val/err", "test/err")
    errors = [run.error(metric) if run.status == "finished" else None for metric in metrics]
    seconds = run.record.get("wall_seconds")
    minutes = seconds / 60 if isinstance(seconds, int | float) else None
    device = run.record.get("device")
    repetition = (run.seed, *(run.fold for _ in folds))
    return run.directory.name, run.record["model"]["name"], *repetition, run.status, *errors, minutes, device


def _unfinished(run: Run) -> str:
    record = run.record
    if run.status == "diverged":
        step = (record.get("divergence") or {}).get("step")
        step = step if isinstance(step, int) else record["steps"]
        return f"{run.name}: diverged at step {step:,}; counted, not averaged"
    if run.status == "failed":
        reason = str((record.get("failure") or {}).get("reason") or "no reason recorded").splitlines()[0]
        return f"{run.name}: failed ({reason})"
    return f"{run.name}: running or interrupted, last seen at step {_last_step(run):,} of {_planned(run):,}"


def _last_step(run: Run) -> int:
    try:
        step = json.loads((run.directory / "progress.json").read_text(encoding="utf-8"))["step"]
        return max(int(step), int(run.record["steps"]))
    except (OSError, ValueError, KeyError, TypeError):
        return int(run.record["steps"])


def _planned(run: Run) -> int:
    return int(run.config.get("trainer.max_steps") or run.record["steps"])


def _commit(run: Run) -> str | None:
    git = run.record.get("git") or {}
    if not git.get("commit"):
        return None
    return f"{str(git['commit'])[:12]}{' with changes' if git.get('dirty') else ''}"


def _values(values: Any) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _range(values: Sequence[Any]) -> str:
    numbers = [float(value) for value in values if value]
    return f"{min(numbers):,.0f} to {max(numbers):,.0f}" if numbers else ""
