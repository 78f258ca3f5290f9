"""What a report says, before it is Markdown, HTML or lines in a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from depthlab.report.core.figures import Figure
from depthlab.report.core.table import Table

TONES = ("good", "bad", "open")


@dataclass(frozen=True)
class Finding:
    """A judged sentence: `title: word. text`. The tone decides the colour: good, bad or open."""

    title: str
    word: str
    text: str
    tone: str

    @property
    def sentence(self) -> str:
        """The whole finding as one line."""
        return f"{self.title}: {self.word}. {self.text}"


@dataclass(frozen=True)
class Section:
    """A heading with findings, lines, a note below them, tables, figures and preformatted text, shown in this order.

    `in_terminal` says whether findings and lines are printed as well.
    """

    heading: str
    findings: tuple[Finding, ...] = ()
    lines: tuple[str, ...] = ()
    note: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    text: str = ""
    in_terminal: bool = False


@dataclass(frozen=True)
class Document:
    """The parts of a report in the order in which they are read."""

    title: str
    question: str
    summary: str
    sections: tuple[Section, ...]

    @property
    def tables(self) -> list[Table]:
        """Every table, in order."""
        return [table for section in self.sections for table in section.tables]

    @property
    def figures(self) -> list[Figure]:
        """Every figure, in order."""
        return [figure for section in self.sections for figure in section.figures]
