"""Two or more sweeps side by side: which networks pair, and what differs in what made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from depthlab.report.core.collection import Collection
from depthlab.report.core.comparisons import Comparison, compare_pair
from depthlab.report.core.groups import NETWORK, Group, Setting


@dataclass(frozen=True)
class Sweep:
    """The runs of one folder, or of several that are read as one."""

    name: str
    found: Collection
    groups: tuple[Group, ...]
    settings: tuple[Setting, ...]


def compare_sweeps(sweeps: Sequence[Sweep], key: str) -> list[Comparison]:
    """Each later sweep's networks minus the first one's of the same name, paired by seed."""
    first = _by_name(sweeps[0])
    pairs = [(group, first[name]) for sweep in sweeps[1:] for name, group in _by_name(sweep).items() if name in first]
    return [comparison for pair in pairs for comparison in compare_pair(*pair, key, by_seed=True)]


def unpaired(sweeps: Sequence[Sweep]) -> list[str]:
    """A line for each network that cannot be compared with one of another sweep."""
    lines = []
    for sweep in sweeps:
        others = {name for other in sweeps if other is not sweep for name in _by_name(other)}
        for group in sweep.groups:
            if group.network not in _by_name(sweep):
                lines.append(f"{group.label}: one of several recipes of {group.network} in {sweep.name}, not paired")
            elif group.network not in others:
                lines.append(f"{group.label}: in {sweep.name} only")
    return lines


def differences(sweeps: Sequence[Sweep]) -> list[tuple[str, ...]]:
    """Rows of a key and its values in each sweep, where they differ: configuration, networks, machine, versions."""
    columns = [_values(sweep) for sweep in sweeps]
    keys = sorted(set().union(*columns))
    rows = [(key, *(column.get(key, "-") for column in columns)) for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def _by_name(sweep: Sweep) -> dict[str, Group]:
    names = [group.network for group in sweep.groups]
    return {group.network: group for group in sweep.groups if names.count(group.network) == 1}


def _values(sweep: Sweep) -> dict[str, str]:
    found: dict[str, list[str]] = {"networks": [group.network for group in sweep.groups]}
    for run in sweep.found.runs:
        record = run.record
        made_by = {f"version of {name}": version for name, version in (record.get("versions") or {}).items()}
        made_by |= {f"extension {name}": version for name, version in (record.get("extensions") or {}).items()}
        made_by |= {"device": record.get("device"), "commit": (record.get("git") or {}).get("commit")}
        for key, value in (*run.config.items(), *made_by.items(), ("seed", run.seed), ("fold", run.fold)):
            if key not in NETWORK and value is not None:
                found.setdefault(key, []).append(str(value))
    return {key: ", ".join(sorted(set(values))) for key, values in found.items()}
