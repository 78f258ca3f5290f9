"""Pointing at the valid name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(name: str, valid: Sequence[str]) -> str:
    """A clause that points at the valid name closest to `name`, or lists all where none is close."""

    def closeness(candidate: str) -> tuple[float, int]:
        matcher = difflib.SequenceMatcher(None, name, candidate)
        return round(matcher.ratio(), 6), matcher.find_longest_match().size

    best = max(valid, key=closeness, default=None)
    if best is None:
        return "None is registered."
    return f"Did you mean {best}?" if closeness(best)[0] >= 0.5 else f"Valid: {', '.join(sorted(valid))}."
