"""A table written once, as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from depthlab.shown_text import for_csv, for_latex, for_markdown_cell

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows under a header. Numbers stay numbers until they are written; None is shown as `-`.

    `links` has, for each row, where its first cell leads on the page; it may be empty.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    links: tuple[str, ...] = ()

    def numeric(self) -> list[bool]:
        """For each column whether it holds numbers and is aligned right."""
        columns = list(zip(*self.rows, strict=True)) or [("",)] * len(self.header)
        return [any(map(_is_number, column)) and not any(map(_is_word, column)) for column in columns]

    def markdown(self) -> str:
        """A GitHub table."""
        lines = [
            self.header,
            tuple("-" * 3 for _ in self.header),
            *([show(cell) for cell in row] for row in self.rows),
        ]
        return "".join("| " + " | ".join(map(for_markdown_cell, line)) + " |\n" for line in lines)

    def csv(self) -> str:
        """Comma-separated, numbers in full, nothing where there is no number."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for line in (self.header, *self.rows):
            writer.writerow([for_csv(cell) if isinstance(cell, str) else cell for cell in line])
        return text.getvalue()

    def latex(self) -> str:
        """A table environment for \\input; a table that is wider than the page is scaled down to it."""
        columns = "".join("r" if is_number else "l" for is_number in self.numeric())
        lines = [" & ".join(for_latex(show(cell)) for cell in line) + r" \\" for line in self.rows]
        return "\n".join(
            [
                "% needs \\usepackage{booktabs,graphicx}",
                r"\begin{table}",
                rf"\caption{{{for_latex(self.caption)}}}",
                r"\centering\small",
                rf"\sbox0{{\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                " & ".join(for_latex(title) for title in self.header) + r" \\",
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}}",
                r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
                r"\end{table}",
                "",
            ]
        )


def show(cell: Cell) -> str:
    """A cell for readers: two decimals, two significant digits below 0.1, `-` for what nobody ran."""
    if cell is None:
        return "-"
    if isinstance(cell, int) and cell >= 10_000:
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.2f}" if abs(cell) >= 0.1 or cell == 0 else f"{cell:.2g}"
    return str(cell)


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float)


def _is_word(cell: Cell) -> bool:
    return isinstance(cell, str)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells that are text already, as a Markdown table."""
    return Table("", "", tuple(header), tuple(tuple(row) for row in rows)).markdown()


def write_tables(folder: Path, tables: Sequence[Table]) -> None:
    """Write each table as .md, .csv and .tex, and tables.tex, which inputs them all and compiles as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        (folder / f"{table.name}.md").write_text(table.markdown(), encoding="utf-8")
        (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")
    inputs = "\n".join(rf"\input{{{table.name}.tex}}" for table in tables)
    (folder / "tables.tex").write_text(
        "\\documentclass{article}\n\\usepackage[utf8]{inputenc}\n\\usepackage{booktabs,graphicx}\n"
        "\\usepackage[a4paper,landscape,margin=1cm]{geometry}\n"
        f"\\begin{{document}}\n{inputs}\n\\end{{document}}\n",
        encoding="utf-8",
    )
