"""A table once, written as Markdown, CSV and LaTeX; and the tables that a report has."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from depthlab.report.core.comparisons import Comparison
from depthlab.report.core.groups import Group, describe, differing_keys
from depthlab.report.core.runs import METRICS
from depthlab.report.core.statistics import Summary
from depthlab.report.depth_study.published import Verdict

Cell = str | int | float | None

FOLDS = (
    " Each fold is the validation set of one run; the folds' training images overlap, so that intervals over folds are "
    "narrower than those over independent images."
)

# What LaTeX would take for a command, and the few signs that the tables use beyond ASCII.
LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
    }
)


# What a run has cost, where records say it; medians over runs, which may have shared their machine.
COSTS = {"images_per_second": "img/s", "peak_memory_mib": "peak MiB"}


@dataclass(frozen=True)
class Table:
    """Rows under a header. Numbers stay numbers until they are written; None is shown as `-`."""

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def numeric(self) -> list[bool]:
        """For each column whether it holds numbers, and so stands to the right."""
        columns = list(zip(*self.rows, strict=True)) or [("",)] * len(self.header)
        return [any(map(_is_number, column)) and not any(map(_is_word, column)) for column in columns]

    def markdown(self) -> str:
        """A GitHub table."""
        lines = [
            self.header,
            tuple("-" * 3 for _ in self.header),
            *([show(cell) for cell in row] for row in self.rows),
        ]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)

    def csv(self) -> str:
        """Comma-separated, numbers in full, nothing where there is no number."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(self.rows)
        return text.getvalue()

    def latex(self) -> str:
        """A table environment for \\input; a table that is wider than the page is scaled down to it."""
        columns = "".join("r" if is_number else "l" for is_number in self.numeric())
        lines = [" & ".join(show(cell).translate(LATEX) for cell in line) + r" \\" for line in self.rows]
        return "\n".join(
            [
                "% needs \\usepackage{booktabs,graphicx}",
                r"\begin{table}",
                rf"\caption{{{self.caption.translate(LATEX)}}}",
                r"\centering\small",
                rf"\sbox0{{\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                " & ".join(title.translate(LATEX) for title in self.header) + r" \\",
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
    """A cell as people read it: two decimals, three significant digits below 0.1, `-` for what nobody ran."""
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
    """Each table as .md, .csv and .tex, and tables.tex, which compiles as it is and inputs them all."""
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


def networks_table(groups: Sequence[Group]) -> Table:
    """One row a network: what it is, how many runs, and its errors as mean ± deviation."""
    keys = _telling_keys(groups)
    with_val = any(group.errors("val/err") for group in groups)
    metrics = [metric for metric in METRICS if metric != "val/err" or with_val]
    sweeps = ["sweep"] if any(group.sweep for group in groups) else []
    folds = ["over"] if any(group.has_folds for group in groups) else []
    costs = [key for key in COSTS if any(group.median(key) is not None for group in groups)]
    rows = tuple(
        (
            *(group.sweep for _ in sweeps),
            group.network,
            *(describe(group.config, [key]).split("=", 1)[1] for key in keys),
            group.runs[0].record["model"].get("num_params"),
            len(group.finished),
            *(group.averaged_over() for _ in folds),
            *(mean_and_deviation(group.summary(metric)) for metric in metrics),
            *(_whole(group.median(key)) for key in costs),
            what_else(group),
        )
        for group in groups
    )
    titles = [f"{METRICS[metric]} (%)" for metric in metrics] + [COSTS[key] for key in costs]
    caption = "Errors of the last weights in percent, mean ± standard deviation over n runs." + (FOLDS if folds else "")
    header = (*sweeps, "network", *keys, "parameters", "n", *folds, *titles, "other runs")
    return Table("networks", caption, header, rows)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _telling_keys(groups: Sequence[Group]) -> list[str]:
    """The columns in which the groups differ; the recipe's hash where nothing else tells two of one name apart."""
    keys = differing_keys([group.config for group in groups])
    if "data.name" in keys and "data.fingerprint" in keys:
        keys.remove("data.fingerprint")  # other data have another fingerprint: the name says it better
    told = {(group.sweep, group.network, describe(group.config, keys)) for group in groups}
    return keys if len(told) == len(groups) else [*keys, "recipe"]


def errors_table(groups: Sequence[Group]) -> Table:
    """One row a network and error, with everything the statistics know."""
    rows = []
    for metric, title in METRICS.items():
        for group in groups:
            if summary := group.summary(metric):
                interval = (summary.low, summary.high, summary.minimum, summary.maximum)
                rows.append((title, group.label, summary.n, summary.mean, summary.sd, *interval))
    header = ("error", "network", "n", "mean", "sd", "95 % CI low", "95 % CI high", "min", "max")
    caption = "Every error of the last weights in percent; the interval is that of the mean (t distribution)."
    return Table("errors", caption, header, tuple(rows))


def comparisons_table(comparisons: Sequence[Comparison], size: float) -> Table:
    """One row a comparison: the difference, its interval, the corrected p and the seeds it would take."""
    rows = tuple(
        (
            f"{c.first.label} - {c.second.label}",
            METRICS[c.metric],
            c.difference.mean,
            c.difference.low,
            c.difference.high,
            c.p_holm,
            ("paired" if c.difference.paired else "Welch") if c.difference.p is not None else "no test",
            " and ".join(map(str, c.difference.n)),
            c.seeds,
        )
        for c in comparisons
    )
    header = ("difference", "error", "points", "95 % CI low", "95 % CI high", "p (Holm)", "test", "n")
    caption = (
        f"Differences of errors in points; the last column is the number of seeds at which a true difference "
        f"of {size:g} points would be seen with power 0.8."
    )
    return Table("comparisons", caption, (*header, f"seeds for {size:g}"), rows)


def published_table(verdicts: Sequence[Verdict]) -> Table:
    """One row a published number: ours, theirs and the verdict."""
    rows = tuple(
        (
            verdict.group.label,
            METRICS[verdict.metric],
            verdict.word,
            mean_and_deviation(verdict.ours),
            verdict.ours.n,
            verdict.published,
            verdict.source,
            verdict.reason,
        )
        for verdict in verdicts
    )
    header = ("network", "error", "verdict", "ours", "n", "published", "source", "because")
    return Table("published", "Errors in percent beside published ones.", header, rows)


def configurations_table(names: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    """One row a key whose values differ between sweeps."""
    caption = "What differs between the sweeps; several values of one sweep stand together."
    return Table("configurations", caption, ("key", *names), tuple(rows))


def mean_and_deviation(summary: Summary | None) -> str | None:
    """`6.97 ± 0.16`; for one run the value and that it is one."""
    if summary is None:
        return None
    return f"{summary.mean:.2f}" + (" (one run)" if summary.sd is None else f" ± {summary.sd:.2f}")


def what_else(group: Group) -> str | None:
    """The runs of a group that are not in its statistics."""
    counts = [(status, group.count(status)) for status in ("diverged", "failed", "running")]
    return ", ".join(f"{number} {status}" for status, number in counts if number) or None
