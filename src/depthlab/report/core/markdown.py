"""The report as a Markdown page, good enough to be the README of a results folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from depthlab.report.core.document import Document, verdict_lines
from depthlab.report.core.figures import Figure
from depthlab.report.core.report_tables import Table

FILES = (
    "Every table is also in [tables/](tables/) as Markdown, CSV and LaTeX, every figure in [figures/](figures/) as "
    "PNG and PDF."
)


def to_markdown(document: Document) -> str:
    """The whole page; figures and tables are linked relative to it."""
    return "\n".join(_lines(document)).rstrip() + "\n"


def _lines(document: Document) -> Iterator[str]:
    tables = {table.name: table for table in document.tables}
    yield from (f"# {document.title}", "", document.question, "", document.summary, "")
    for label, statements in document.statements:
        yield from (f"## What these runs say{f' ({label})' if label else ''}", "")
        yield from (f"- **{item.outcome}**: {item.text.lower()}. {_capital(item.reason)}." for item in statements)
        yield ""
    yield from (
        "## Beside published numbers",
        "",
        *_bullets(list(verdict_lines(document.verdicts)), "nothing published for these"),
    )
    yield from ("## Errors", "", *_table(tables["networks"]))
    if "configurations" in tables:
        yield from ("## What differs between the sweeps", "", *_table(tables["configurations"]))
    yield from (line for figure in document.figures for line in _figure(figure))
    yield from ("## Comparisons", "", *_bullets(document.comparisons, "none"), *_table(tables["comparisons"]))
    yield from ("## Missing and left out", "", *_bullets([*document.missing, *document.left_out], "nothing"))
    yield from ("## Commands", "", "```", *document.commands, "```", "")
    yield from (
        "## What differs from the paper",
        "",
        *_bullets(list(document.from_paper), "nothing of its recipe"),
    )
    yield from ("## Hardware, time and versions", "", "| | |", "| --- | --- |")
    yield from (f"| {name} | {value} |" for name, value in document.conditions)
    yield from ("", "## Runs", "", *_table(document.runs))
    yield FILES


def _table(table: Table) -> list[str]:
    return [table.markdown(), table.caption, ""] if table.rows else ["None.", ""]


def _figure(figure: Figure) -> list[str]:
    if figure.drawing is None:
        return [f"*{figure.title}: left out, {figure.caption}.*", ""]
    return [
        f"### {figure.title}",
        "",
        f"![{figure.title}](figures/{figure.name}.png)",
        "",
        figure.caption,
        "",
    ]


def _bullets(lines: Sequence[str], otherwise: str) -> list[str]:
    return [*(f"- {line}" for line in lines or [otherwise]), ""]


def _capital(text: str) -> str:
    # A reason that begins with a network's name keeps its spelling.
    return text if text.split(" ")[0][-1:].isdigit() else text[:1].upper() + text[1:]
