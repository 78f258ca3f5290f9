"""The report as one HTML file that needs no network: verdicts, tables that sort, figures, runs, commands."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from depthlab.report.core.document import Document, verdict_lines
from depthlab.report.core.figures import Figure
from depthlab.report.core.report_tables import Cell, Table, show
from depthlab.report.depth_study.claims import Statement

TEMPLATE = Path(__file__).with_name("page.html")
# A cell with more text than this may wrap.
LONG = 30
# Verdicts that have a colour of their own.
WORDS = ("reproduced", "better", "worse", "undecided")


def to_html(document: Document, figures: Path) -> str:
    """The whole page; the PNG files in the folder `figures` are put into it."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(document.title),
        question=escape(document.question),
        summary=escape(document.summary),
        body="\n".join(_sections(document, figures)),
    )


def _sections(document: Document, figures: Path) -> Iterator[str]:
    tables = {table.name: table for table in document.tables}
    for label, statements in document.statements:
        yield f"<h2>What these runs say{f' ({escape(label)})' if label else ''}</h2>"
        yield f'<ul class="verdicts">{"".join(_statement(item) for item in statements)}</ul>'
    if document.missing or document.left_out:
        yield f"<h2>Missing and left out</h2>{_list([*document.missing, *document.left_out])}"
    yield f"<h2>Errors</h2>{_table(tables['networks'])}"
    if "configurations" in tables:
        yield f"<h2>What differs between the sweeps</h2>{_table(tables['configurations'])}"
    yield "<h2>Beside published numbers</h2>"
    apart = [verdict for verdict in document.verdicts if verdict.word == "not comparable"]
    if len(apart) < len(document.verdicts):
        published = tables["published"]
        yield _table(replace(published, rows=tuple(row for row in published.rows if "not comparable" not in row)))
    yield _list(list(verdict_lines(apart)) or ([] if document.verdicts else ["nothing is published for these"]))
    yield "<h2>Figures</h2>" + "".join(_figure(figure, figures) for figure in document.figures)
    yield f"<h2>Comparisons</h2>{_list(document.comparisons)}{_table(tables['comparisons'])}"
    yield f"<h2>Every error</h2>{_table(tables['errors'])}"
    yield f"<h2>Runs</h2>{_table(document.runs, document.links)}"
    yield f"<h2>Commands</h2><pre>{escape(chr(10).join(document.commands))}</pre>"
    yield f"<h2>What differs from the paper</h2>{_list(document.from_paper or ['nothing of its recipe'])}"
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in document.conditions)
    yield f"<h2>Hardware, time and versions</h2><dl>{rows}</dl>"


def _statement(statement: Statement) -> str:
    return (
        f'<li class="{statement.outcome}"><span class="word">{statement.outcome}</span>: '
        f'{escape(statement.text)}.<p class="soft">{escape(statement.reason)}.</p></li>'
    )


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _table(table: Table, links: Sequence[str] = ()) -> str:
    if not table.rows:
        return '<p class="soft">None.</p>'
    numeric = table.numeric()
    head = "".join(
        f"<th{' class=number' if right else ''}><button>{escape(title)}</button></th>"
        for title, right in zip(table.header, numeric, strict=True)
    )
    rows = [[_cell(cell, right) for cell, right in zip(row, numeric, strict=True)] for row in table.rows]
    for row, source, link in zip(rows, table.rows, links, strict=False):
        row[0] = f'<td><a href="{escape(quote(link))}/">{escape(show(source[0]))}</a></td>'
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<p class="soft">{escape(table.caption)}</p>'
    )


def _cell(cell: Cell, right: bool) -> str:
    text = show(cell)
    # "6.97 ± 0.16" sorts by its mean, like a number.
    leading = re.match(r"(-?\d+(?:\.\d+)?)( ±| \(|$)", text)
    value = cell if isinstance(cell, int | float) else leading[1] if leading else None
    classes = ["number"] * right + ["long"] * (len(text) > LONG) + [text] * (text in WORDS)
    attributes = f' class="{" ".join(classes)}"' if classes else ""
    attributes += f' data-value="{value}"' if value is not None else ""
    return f"<td{attributes}>{escape(text)}</td>"


def _figure(figure: Figure, folder: Path) -> str:
    title = f"<h3>{escape(figure.title)}</h3>"
    if figure.drawing is None:
        return f'{title}<p class="soft">Left out: {escape(figure.caption)}.</p>'
    data = base64.b64encode((folder / f"{figure.name}.png").read_bytes()).decode()
    image = f'<img alt="{escape(figure.title)}" src="data:image/png;base64,{data}">'
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
    return f'<figure>{title}<div class="wide" tabindex="0">{image}</div>{caption}</figure>'
