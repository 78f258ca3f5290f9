"""What an experiment's file states in advance: a margin, `# Margin: 0.5 points`, or claims, `# Claims: best rate`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import depthlab

MARGIN = re.compile(r"^# Margin:\s*(\d+(?:\.\d+)?)\b", re.MULTILINE)
CLAIMS = re.compile(r"^# Claims:\s*(.+)$", re.MULTILINE)
NAME = re.compile(r"[A-Za-z0-9_.-]+")


def declared_margin(names: Sequence[str], folders: Sequence[Path] = ()) -> float | None:
    """The margin of the one experiment that all runs belong to; None where its file states none.

    Args:
        names: the experiments' names, as records hold them.
        folders: where experiment files lie; by default those of the checkout or of the installed package.
    """
    stated = _stated(names, MARGIN, folders)
    return None if stated is None else float(stated)


def declares(names: Sequence[str], claim: str, folders: Sequence[Path] = ()) -> bool:
    """Whether the file of the one experiment that all runs belong to names this claim, which not every sweep makes."""
    return claim in (_stated(names, CLAIMS, folders) or "").split(", ")


def _stated(names: Sequence[str], pattern: re.Pattern[str], folders: Sequence[Path]) -> str | None:
    if len(set(names)) != 1 or not NAME.fullmatch(names[0]):
        return None
    package = Path(depthlab.__file__).resolve().parent
    for folder in folders or (package.parents[1] / "configs" / "experiment", package / "configs" / "experiment"):
        file = folder / f"{names[0]}.yaml"
        if file.is_file() and (found := pattern.search(file.read_text(encoding="utf-8"))):
            return found[1]
    return None
