"""The report as a Markdown page, good enough to be the README of a results folder."""

from __future__ import annotations

from collections.abc import Iterator

from depthlab.report.core.document import Document, Section
from depthlab.report.core.figures import Figure
from depthlab.shown_text import fenced, for_markdown, for_markdown_line

FILES = (
    "Every table is also in [tables/](tables/) as Markdown, CSV and LaTeX, every figure in [figures/](figures/) as "
    "PNG and PDF."
)


def to_markdown(document: Document) -> str:
    """The whole page; figures and tables are linked relative to it."""
    title, *paragraphs = map(for_markdown_line, (document.title, document.question, document.summary))
    lines = [f"# {title}", ""]
    for paragraph in paragraphs:
        lines += [paragraph, ""]
    for section in document.sections:
        lines += _section(section)
    return "\n".join([*lines, FILES]).rstrip() + "\n"


def _section(section: Section) -> Iterator[str]:
    yield from (f"## {for_markdown(section.heading)}", "")
    items = [
        f"- **{for_markdown(f'{item.title}: {item.word}.')}** {for_markdown(item.text)}" for item in section.findings
    ]
    items += [f"- {for_markdown_line(line)}" for line in section.lines]
    if items:
        yield from (*items, "")
    if section.note:
        yield from (for_markdown_line(section.note), "")
    for table in section.tables:
        yield from ([table.markdown(), for_markdown_line(table.caption), ""] if table.rows else ["None.", ""])
    for figure in section.figures:
        yield from _figure(figure)
    if section.text:
        yield from (*fenced(section.text), "")


def _figure(figure: Figure) -> list[str]:
    title = for_markdown(figure.title)
    if figure.drawing is None:
        return [f"*{title}: not drawn, {for_markdown(figure.caption)}.*", ""]
    image = f"![{title}](figures/{figure.name}.png)"
    return [f"### {title}", "", image, "", for_markdown_line(figure.caption), ""]
