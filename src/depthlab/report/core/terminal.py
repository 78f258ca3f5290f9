"""The report as a few lines in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table as Grid

from depthlab.config.console import TextConsole
from depthlab.report.core.document import Document
from depthlab.report.core.groups import Group
from depthlab.report.core.summary_tables import cell_text, other_runs, shown_keys
from depthlab.report.core.table import Table, show
from depthlab.report.core.task_description import EMA, RUNNING
from depthlab.shown_text import one_line

COLOURS = {"good": "green", "bad": "red", "open": "yellow"}
SHORT = {"training": "train", "validation": "val"}


def print_document(document: Document, groups: Sequence[Group], page: Path, figure: Path | None) -> None:
    """The findings first, then the networks, what is missing, and where the page and the main figure lie."""
    console = TextConsole(soft_wrap=True)

    def say(text: str, **options: Any) -> None:
        console.print(one_line(text), **options)

    sections = [section for section in document.sections if section.in_terminal]
    for section in sections:
        for finding in section.findings:
            say(f"{finding.title}: {finding.word}.", style=COLOURS[finding.tone], end=" ")
            say(finding.text)
    say(f"{document.title}: {document.summary}")
    console.print(_networks(groups))
    for section in sections:
        for line in section.lines:
            say(line, style="yellow")
    say(f"page: {page}")
    if figure:
        say(f"figure: {figure}")


def grid(table: Table, most_rows: int | None = None) -> Grid:
    """The first rows of a table. Where a terminal is too narrow, the names in its first column go on below."""
    made = Grid(*table.header, box=None)
    for place, (column, right) in enumerate(zip(made.columns, table.numeric(), strict=True)):
        column.justify, column.no_wrap, column.overflow = ("right" if right else "left"), place > 0, "fold"
    for row in table.rows[:most_rows]:
        made.add_row(*map(show, row))
    return made


def _networks(groups: Sequence[Group]) -> Grid:
    columns = [(task, key) for task, key in shown_keys(groups) if not key.endswith(RUNNING) and not key.startswith(EMA)]
    titles = (_short(task.heading(key)) for task, key in columns)
    grid = Grid(*map(one_line, ("network", "n", *titles, "other runs")))
    for group in groups:
        values = [_cell(group, key) if group.task.name == task.name else None for task, key in columns]
        n = len(group.values(f"train/{group.task.primary}"))
        number = f"{n} ({group.averaged_over()})" if group.has_folds else str(n)
        cells = (group.label, number, *(value or "-" for value in values), other_runs(group) or "")
        grid.add_row(*map(one_line, cells))
    grid.columns[0].overflow = "fold"
    for column in grid.columns[1:-1]:
        column.justify, column.no_wrap = "right", True
    return grid


def _cell(group: Group, key: str) -> str | None:
    """The cell's text; without the list of runs where only some settled."""
    settled = group.num_settled(key)
    return cell_text(group, key) if settled is None else f"{settled} of {len(group.values(key))} settled"


def _short(heading: str) -> str:
    """`train error %` for `training error (%)`."""
    words = heading.replace(" (", " ").rstrip(")").split(" ")
    return " ".join(SHORT.get(word, word) for word in words)
