"""The report as one HTML file that needs no network: findings, sortable tables, figures, runs, commands."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from urllib.parse import quote

from depthlab.report.core.document import Document, Finding, Section
from depthlab.report.core.figures import Figure
from depthlab.report.core.table import Cell, Table, show
from depthlab.shown_text import lines, one_line

TEMPLATE = Path(__file__).with_name("page.html")
# A cell with more text than this may wrap.
LONG = 30


def escape(text: str) -> str:
    """Text for an element or an attribute, without control characters."""
    return html.escape(one_line(text))


def to_html(document: Document, figures: Path) -> str:
    """The whole page; the PNG files in the folder `figures` are put into it."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(document.title),
        question=escape(document.question),
        summary=escape(document.summary),
        body="\n".join(_section(section, figures) for section in document.sections),
    )


def _section(section: Section, figures: Path) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>"]
    if section.findings:
        parts.append(f'<ul class="findings">{"".join(map(_finding, section.findings))}</ul>')
    if section.lines:
        parts.append(_list(section.lines))
    if section.note:
        parts.append(f'<p class="soft">{escape(section.note)}</p>')
    parts += [_table(table) for table in section.tables]
    parts += [_figure(figure, figures) for figure in section.figures]
    if section.text:
        parts.append(f"<pre>{html.escape(lines(section.text))}</pre>")
    return "".join(parts)


def _finding(finding: Finding) -> str:
    title = f'<span class="word">{escape(finding.title)}: {escape(finding.word)}.</span>'
    return f'<li class="{escape(finding.tone)}">{title} {escape(finding.text)}</li>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _table(table: Table) -> str:
    if not table.rows:
        return '<p class="soft">None.</p>'
    numeric = table.numeric()
    head = "".join(
        f"<th{' class=number' if right else ''}><button>{escape(title)}</button></th>"
        for title, right in zip(table.header, numeric, strict=True)
    )
    rows = [[_cell(cell, right) for cell, right in zip(row, numeric, strict=True)] for row in table.rows]
    for row, source, link in zip(rows, table.rows, table.links, strict=False):
        if link:
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
    classes = ["number"] * right + ["long"] * (len(text) > LONG)
    attributes = f' class="{" ".join(classes)}"' if classes else ""
    attributes += f' data-value="{value}"' if value is not None else ""
    return f"<td{attributes}>{escape(text)}</td>"


def _figure(figure: Figure, folder: Path) -> str:
    title = f"<h3>{escape(figure.title)}</h3>"
    if figure.drawing is None:
        return f'{title}<p class="soft">Not drawn: {escape(figure.caption)}.</p>'
    data = base64.b64encode((folder / f"{figure.name}.png").read_bytes()).decode()
    image = f'<img alt="{escape(figure.title)}" src="data:image/png;base64,{data}">'
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
    return f'<figure>{title}<div class="wide" tabindex="0">{image}</div>{caption}</figure>'
