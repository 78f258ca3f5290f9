"""One report, top to bottom: read records, statistics, tables, figures, pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from depthlab.report.core import document, figures, style
from depthlab.report.core import report_tables as tables
from depthlab.report.core.comparisons import compare, compare_recipes, sentence
from depthlab.report.core.diagnostic_figures import DIAGNOSTIC
from depthlab.report.core.document import Document
from depthlab.report.core.figures import Figure
from depthlab.report.core.groups import Group, Setting, find_settings, group_runs
from depthlab.report.core.markdown import to_markdown
from depthlab.report.core.page import to_html
from depthlab.report.core.planned import planned_runs
from depthlab.report.core.runs import Collection, collect
from depthlab.report.core.side_by_side import Sweep, compare_sweeps, differences, unpaired
from depthlab.report.core.terminal import print_document
from depthlab.report.depth_study.claims import judge
from depthlab.report.depth_study.published import differences_from_paper, judge_published

SIZE = 0.5
# A search over many recipes has as many settings; six figures each would bury the page.
MOST_DRAWN = 6


@dataclass(frozen=True)
class Report:
    """A written report: its content, its rows, and where its pages and the main figure lie."""

    document: Document
    groups: list[Group]
    markdown: Path
    page: Path
    figure: Path | None


def make_report(
    folders: Sequence[Path],
    out: Path,
    size: float = SIZE,
    markdown_name: str = "report.md",
    side_by_side: bool = False,
) -> Report:
    """Write the report of the runs below `folders` into `out`.

    Args:
        folders: folders of sweeps, or of single runs.
        out: where report.html, the Markdown page, tables/ and figures/ go; made if it is not there.
        size: the difference in points for which the number of seeds is given.
        markdown_name: the file name of the Markdown page, README.md for a results folder.
        side_by_side: keep the folders apart and compare their networks, instead of reading them as one sweep.

    Raises:
        InputError: a folder does not exist, or holds no run that can be reported.
    """
    sweeps = read_sweeps(folders, side_by_side)
    content = describe(sweeps, out, size, planned_runs(folders))
    groups = [group for sweep in sweeps for group in sweep.groups]
    return write_report(content, groups, out, markdown_name)


def read_sweeps(folders: Sequence[Path], side_by_side: bool) -> list[Sweep]:
    """The runs below the folders, grouped: one sweep for each folder, or one of them all."""
    if not side_by_side:
        found = collect(folders)
        groups = group_runs(found.runs)
        name = ", ".join(folder.resolve().name for folder in folders)
        return [Sweep(name, found, tuple(groups), tuple(find_settings(groups)))]
    sweeps = []
    for name, folder in zip(_distinct_names(folders), folders, strict=True):
        found = collect([folder])
        groups = group_runs(found.runs, name)
        labelled = [replace(s, label=f"{name}, {s.label}" if s.label else name) for s in find_settings(groups)]
        sweeps.append(Sweep(name, found, tuple(groups), tuple(labelled)))
    return sweeps


def describe(sweeps: Sequence[Sweep], out: Path, size: float, planned: Sequence[str] = ()) -> Document:
    """Everything the report says, the figures drawn but not yet written."""
    runs = [run for sweep in sweeps for run in sweep.found.runs]
    found = Collection(runs, [item for sweep in sweeps for item in sweep.found.left_out])
    groups = [group for sweep in sweeps for group in sweep.groups]
    settings = [setting for sweep in sweeps for setting in sweep.settings]
    train = [compare(setting, "train/err", size) for setting in settings]
    test = [compare(setting, "test/err", size) for setting in settings]
    comparisons = [c for one, other in zip(train, test, strict=True) for c in one + other]
    for sweep in sweeps:
        for metric in ("train/err", "test/err"):
            comparisons += compare_recipes(sweep.groups, sweep.settings, metric, size)
    if len(sweeps) > 1:
        across = [compare_sweeps(sweeps, metric, size) for metric in ("train/err", "test/err")]
        comparisons = [*across[0], *across[1], *comparisons]
    verdicts = judge_published(groups)
    list_of_runs = document.runs_table(found)
    return Document(
        title=" and ".join(sweep.name for sweep in sweeps),
        question=document.question(groups),
        summary=document.summary_line(found),
        statements=tuple((s.label, tuple(judge(s, *errors))) for s, *errors in zip(settings, train, test, strict=True)),
        verdicts=tuple(verdicts),
        from_paper=tuple(differences_from_paper(groups)),
        tables=(
            tables.networks_table(groups),
            tables.errors_table(groups),
            tables.comparisons_table(comparisons, size),
            tables.published_table(verdicts),
            list_of_runs,
            *([tables.configurations_table([s.name for s in sweeps], differences(sweeps))] if len(sweeps) > 1 else []),
        ),
        figures=tuple(draw(settings)),
        comparisons=tuple(f"{sentence(comparison)}." for comparison in comparisons),
        missing=(*document.missing_runs(found, settings, planned), *(unpaired(sweeps) if len(sweeps) > 1 else [])),
        left_out=tuple(f"{item.what}: left out, {item.reason}" for item in found.left_out),
        runs=list_of_runs,
        links=tuple(document.run_links(found, out)),
        commands=tuple(document.commands(found)),
        conditions=tuple(document.conditions(found)),
    )


def draw(settings: Sequence[Setting]) -> list[Figure]:
    """Every figure of every setting; from the second setting on names are numbered and titles say which."""
    drawn = []
    for number, setting in enumerate(settings[:MOST_DRAWN], start=1):
        for make in (*figures.DEFAULT, *DIAGNOSTIC):
            with style.look():
                figure = make(setting)
            suffix = f"_{number}" if number > 1 else ""
            title = f"{figure.title} ({setting.label})" if setting.label else figure.title
            drawn.append(replace(figure, name=figure.name + suffix, title=title))
    if len(settings) > MOST_DRAWN:
        labels = "; ".join(setting.label for setting in settings[MOST_DRAWN:])
        drawn.append(Figure("more", "Further settings", f"{MOST_DRAWN} settings are drawn, not: {labels}", None))
    return drawn


def write_report(content: Document, groups: list[Group], out: Path, markdown_name: str) -> Report:
    """Write tables, figures and pages into `out`."""
    tables.write_tables(out / "tables", content.tables)
    for figure in content.figures:
        style.save(figure.drawing, out / "figures", figure.name)
    markdown, page = out / markdown_name, out / "report.html"
    markdown.write_text(to_markdown(content), encoding="utf-8")
    page.write_text(to_html(content, out / "figures"), encoding="utf-8")
    main = next((figure for figure in content.figures if figure.drawing is not None), None)
    return Report(content, groups, markdown, page, out / "figures" / f"{main.name}.png" if main else None)


def print_report(report: Report) -> None:
    """Show the report in the terminal."""
    print_document(report.document, report.groups, report.page, report.figure)


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; with the parent's where two are equal."""
    paths = [folder.resolve() for folder in folders]
    names = [path.name for path in paths]
    return [
        name if names.count(name) == 1 else f"{path.parent.name}/{name}"
        for name, path in zip(names, paths, strict=True)
    ]
