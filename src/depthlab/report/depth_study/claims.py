"""The four statements that make the paper's point, held against the runs of one setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from depthlab.report.core.comparisons import Comparison, interval, sentence, why_no_interval
from depthlab.report.core.groups import Group, Setting
from depthlab.report.core.statistics import contrast

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"


@dataclass(frozen=True)
class Statement:
    """A statement of the paper, what the runs say to it, and the interval that decided."""

    text: str
    outcome: str
    reason: str


def judge(setting: Setting, train: Sequence[Comparison], test: Sequence[Comparison]) -> list[Statement]:
    """The four statements. Training errors are final ones in evaluation mode, test errors those of the last weights.

    Args:
        setting: the groups that are compared.
        train: the setting's comparisons of train/err.
        test: its comparisons of test/err.
    """
    kinds = setting.kinds()
    residual = next((kind for kind in kinds if kind.startswith("residual")), "residual")
    plain_groups, residual_groups = kinds.get("plain", []), kinds.get(residual, [])
    return [
        _trend("Training error grows with depth in plain networks", plain_groups, train, 1),
        _trend("Training error falls with depth in residual networks", residual_groups, train, -1),
        _beats("Residual networks have a lower test error than plain ones at each depth", residual, test),
        _gain("The gain in test error from shortcuts grows with depth", plain_groups, residual_groups),
    ]


def _trend(text: str, groups: Sequence[Group], comparisons: Sequence[Comparison], sign: int) -> Statement:
    """Decided by the shallowest against the deepest; a significant step the other way contradicts."""
    members = [group for group in groups if group.errors("train/err")]
    if len(members) < 2:
        return Statement(text, UNDECIDED, "fewer than two depths have finished runs")
    inside = [c for c in comparisons if c.first in members and c.second in members]
    against = [c for c in inside if c.sign == -sign]
    if against:
        return Statement(text, CONTRADICTED, sentence(against[0]))
    ends = next(c for c in inside if c.first is members[-1] and c.second is members[0])
    return Statement(text, SUPPORTED if ends.sign == sign else UNDECIDED, sentence(ends) + _need(ends))


def _beats(text: str, residual: str, comparisons: Sequence[Comparison]) -> Statement:
    """Supported where plain is significantly worse at every depth that has both."""
    twins = [c for c in comparisons if c.first.kind == "plain" and c.second.kind == residual]
    if not twins:
        return Statement(text, UNDECIDED, "no depth has finished runs of both")
    against = [c for c in twins if c.sign < 0]
    if against:
        return Statement(text, CONTRADICTED, sentence(against[0]))
    unclear = [c for c in twins if not c.sign]
    if unclear:
        return Statement(text, UNDECIDED, "; ".join(sentence(c) + _need(c) for c in unclear))
    return Statement(text, SUPPORTED, "; ".join(sentence(c) for c in twins))


def _gain(text: str, plain: Sequence[Group], residual: Sequence[Group]) -> Statement:
    """The plain-minus-residual gain at the deepest shared depth minus that at the shallowest; one test, no family."""
    twins = {
        p.depth: (p, r)
        for p in plain
        for r in residual
        if p.depth == r.depth and p.errors("test/err") and r.errors("test/err")
    }
    if len(twins) < 2:
        return Statement(text, UNDECIDED, "fewer than two depths have finished runs of both")
    shallow, deep = min(twins), max(twins)
    groups = [*twins[deep], *twins[shallow]]
    growth = contrast([group.errors("test/err") for group in groups], [1, -1, -1, 1])
    reason = f"from depth {shallow} to {deep} the gain changes by {growth.mean:+.2f} points, "
    if growth.low is None or growth.high is None:
        return Statement(text, UNDECIDED, reason + why_no_interval(growth))
    outcome = SUPPORTED if growth.low > 0 else CONTRADICTED if growth.high < 0 else UNDECIDED
    return Statement(text, outcome, reason + interval(growth))


def _need(comparison: Comparison) -> str:
    if comparison.sign or comparison.seeds is None:
        return ""
    return f" ({comparison.seeds} seeds would show a difference of {comparison.size:g} points)"
