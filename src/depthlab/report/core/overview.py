"""What a sweep asked, how many runs it has, what is missing, and on what it ran."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from depthlab.config.identity import name_repetition
from depthlab.records.progress_file import read_progress
from depthlab.report.core.collection import Collection, Run
from depthlab.report.core.groups import Group, Setting, differing_keys
from depthlab.shown_text import counted

MOST_NAMED = 4  # keys in a question
NAMESPACE = "depthlab_extensions"  # of extensions that are single files


def question(groups: Sequence[Group]) -> str:
    """What the runs ask, from what differs between them."""
    by_network: dict[str, list[Group]] = {}
    for group in groups:
        by_network.setdefault(group.network, []).append(group)
    keys = list(dict.fromkeys(k for same in by_network.values() for k in differing_keys([g.config for g in same])))
    if keys:
        what = _listed(keys, "or") if len(keys) <= MOST_NAMED else f"a change of {len(keys)} keys"
        return f"What difference does {what} make to {_listed(list(by_network), 'and')}?"
    if len(by_network) > 1:
        return f"How do {_listed(list(by_network), 'and')} compare?"
    return f"How well does {next(iter(by_network))} do?"


def summary_line(found: Collection) -> str:
    """How many runs there are and what became of them, in one sentence."""
    states = [(status, len(found.with_status(status))) for status in ("finished", "diverged", "failed", "running")]
    counts = ", ".join(f"{number} {status}" for status, number in states if number)
    data = sorted({f"{run.record['data']['name']}, {run.planned_steps:,} steps" for run in found.runs})
    left_out = f", {len(found.left_out)} excluded" if found.left_out else ""
    runs = counted(len(found.runs), "run")
    return f"{runs} ({counts}{left_out}) on {'; '.join(data)}."


def missing_runs(found: Collection, settings: Sequence[Setting], planned: Sequence[str]) -> list[str]:
    """A line for every run that is incomplete, ended early, or is missing although others let expect it."""
    lines = [_unfinished(run) for run in found.with_status("running", "failed", "diverged")]
    lines += [_stopped(run) for run in found.with_status("finished") if run.record.get("stopped_early")]
    lines += [f"{name}: planned, not started" for name in planned]
    for setting in settings:
        lines += [
            f"{group.label} {name_repetition(*missing)}: no record, though other networks have it"
            for group, missing in setting.missing()
            if f"{group.network} {name_repetition(*missing)}" not in planned
        ]
    return lines


def superseded(folders: Sequence[Path]) -> list[str]:
    """A line for each folder that holds superseded results."""
    return [
        f"{folder.resolve().name}: superseded results, kept for the record; do not cite them"
        for folder in folders
        if "superseded" in folder.resolve().parts
    ]


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
        ("images a second", _range([run.record.get("images_per_second") for run in found.with_status("finished")])),
        ("commit", _values(_commit(run) for run in found.runs)),
        ("extensions", _values(_extension(*item) for run in found.runs for item in _extensions(run))),
        ("extensions not installed here", _values(_not_installed(found.runs))),
    ]
    packages = sorted({package for run in found.runs for package in run.record.get("versions") or {}})
    rows += [(p, _values((run.record.get("versions") or {}).get(p) for run in found.runs)) for p in packages]
    return [(name, value) for name, value in rows if value]


def duration(seconds: float) -> str:
    """Seconds as people say them: `42 s`, `3.5 min`, `2.1 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _unfinished(run: Run) -> str:
    record = run.record
    if run.status == "diverged":
        step = (record.get("divergence") or {}).get("step")
        step = step if isinstance(step, int) else record["steps"]
        return f"{run.name}: diverged at step {step:,}; {_counted_as(run)}"
    if run.status == "failed":
        reason = str((record.get("failure") or {}).get("reason") or "no reason recorded").splitlines()[0]
        return f"{run.name}: failed ({reason})"
    return f"{run.name}: running or interrupted, last seen at step {_last_step(run):,} of {run.planned_steps:,}"


def _counted_as(run: Run) -> str:
    metric = run.task.metric(run.task.primary)
    if metric.chance is None:
        return "not averaged"
    return f"counted at the chance {metric.title} of {metric.chance:g} {metric.unit}".rstrip()


def _stopped(run: Run) -> str:
    stopped = run.record["stopped_early"]
    reason = str(stopped.get("reason") or "no reason recorded").splitlines()[0]
    return f"{run.name}: stopped early at step {run.record['steps']:,} of {run.planned_steps:,} ({reason})"


def _last_step(run: Run) -> int:
    progress = read_progress(run.directory)
    return max(progress.step if progress else 0, int(run.record["steps"]))


def _extensions(run: Run) -> list[tuple[str, Any]]:
    return sorted((run.record.get("extensions") or {}).items())


def _extension(name: str, version: Any) -> str:
    return name if version is None else f"{name} {version}"


def _not_installed(runs: Sequence[Run]) -> list[str]:
    return sorted({name for run in runs for name, _ in _extensions(run) if not _is_installed(name)})


def _is_installed(name: str) -> bool:
    """Whether an extension is here: a file of the namespace package or a distribution. Nothing of it is imported."""
    namespace, _, module = name.rpartition(".")
    if namespace == NAMESPACE and module.isidentifier():
        return find_spec(name) is not None
    try:
        distribution(name)
    except (PackageNotFoundError, ValueError):
        return False
    return True


def _commit(run: Run) -> str | None:
    git = run.record.get("git") or {}
    if not git.get("commit"):
        return None
    return f"{str(git['commit'])[:12]}{' with changes' if git.get('dirty') else ''}"


def _listed(names: Sequence[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _values(values: Any) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _range(values: Sequence[Any]) -> str:
    numbers = [float(value) for value in values if value]
    return f"{min(numbers):,.0f} to {max(numbers):,.0f}" if numbers else ""
