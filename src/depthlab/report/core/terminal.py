"""The report as a few lines in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from depthlab.report.core.document import Document, verdict_lines
from depthlab.report.core.groups import Group
from depthlab.report.core.report_tables import mean_and_deviation, what_else

COLOURS = {"supported": "green", "contradicted": "red", "undecided": "yellow"}
HEADERS = {"train/err": "train error %", "val/err": "val error %", "test/err": "test error %"}


def print_document(document: Document, groups: Sequence[Group], page: Path, figure: Path | None) -> None:
    """The networks, the verdicts, what is missing, and where the page and the main figure lie."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{document.title}: {document.summary}")
    console.print(_networks(groups))
    for label, statements in document.statements:
        for item in statements:
            prefix = f"({label}) " if label else ""
            console.print(item.outcome, style=COLOURS[item.outcome], end=": ")
            console.print(f"{prefix}{item.text}. {item.reason}.")
    comparable = [verdict for verdict in document.verdicts if verdict.word != "not comparable"]
    for line in verdict_lines(comparable):
        console.print(line)
    if len(comparable) < len(document.verdicts):
        number = len(document.verdicts) - len(comparable)
        console.print(f"not comparable with {number} published numbers, for reasons that the page gives")
    for line in (*document.missing, *document.left_out):
        console.print(line, style="yellow")
    console.print(f"page: {page}")
    if figure:
        console.print(f"figure: {figure}")


def _networks(groups: Sequence[Group]) -> Grid:
    metrics = [metric for metric in HEADERS if any(group.errors(metric) for group in groups)]
    grid = Grid("network", "n", *(HEADERS[metric] for metric in metrics), "not in it")
    for group in groups:
        errors = [mean_and_deviation(group.summary(metric)) or "-" for metric in metrics]
        number = f"{len(group.finished)} ({group.averaged_over()})" if group.has_folds else str(len(group.finished))
        grid.add_row(group.label, number, *errors, what_else(group) or "")
    for column in grid.columns[1:-1]:
        column.justify, column.no_wrap = "right", True
    return grid
