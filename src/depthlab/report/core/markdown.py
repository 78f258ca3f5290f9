"""The report as a Markdown page, good enough to be the README of a results folder."""

from __future__ import annotations

from collections.abc import Iterator

from depthlab.report.core.document import Document, Section
from depthlab.report.core.figures import Figure

FILES = (
    "Every table is also in [tables/](tables/) as Markdown, CSV and LaTeX, every figure in [figures/](figures/) as "
    "PNG and PDF."
)


def to_markdown(document: Document) -> str:
    """The whole page; figures and tables are linked relative to it."""
    lines = [f"# {document.title}", "", document.question, "", document.summary, ""]
    for section in document.sections:
        lines += _section(section)
    return "\n".join([*lines, FILES]).rstrip() + "\n"


def _section(section: Section) -> Iterator[str]:
    yield from (f"## {section.heading}", "")
    items = [f"- **{item.title}: {item.word}.** {item.text}" for item in section.findings]
    items += [f"- {line}" for line in section.lines]
    if items:
        yield from (*items, "")
    if section.note:
        yield from (section.note, "")
    for table in section.tables:
        yield from ([table.markdown(), table.caption, ""] if table.rows else ["None.", ""])
    for figure in section.figures:
        yield from _figure(figure)
    if section.text:
        yield from ("```", section.text, "```", "")


def _figure(figure: Figure) -> list[str]:
    if figure.drawing is None:
        return [f"*{figure.title}: not drawn, {figure.caption}.*", ""]
    image = f"![{figure.title}](figures/{figure.name}.png)"
    return [f"### {figure.title}", "", image, "", figure.caption, ""]
