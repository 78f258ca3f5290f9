"""One report, top to bottom: read records, statistics, tables, figures, pages.

Every sweep gets the generic report of `core`; a sweep over depth also gets the sections of `depth_study`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from depthlab.report.core import overview, style, summary_tables
from depthlab.report.core.class_tables import class_report, confused_pairs
from depthlab.report.core.collection import Collection, collect
from depthlab.report.core.comparisons import Comparison, compare, compare_recipes, sentence
from depthlab.report.core.diagnostic_figures import DIAGNOSTIC
from depthlab.report.core.diagnostics import class_names, read_shown
from depthlab.report.core.document import Document, Section
from depthlab.report.core.figures import Figure, strip_plot, training_curves
from depthlab.report.core.group_curves import GroupCurves, read_group_curves, steps_table
from depthlab.report.core.groups import Group, Setting, find_settings, group_runs
from depthlab.report.core.margin import declared_margin
from depthlab.report.core.markdown import to_markdown
from depthlab.report.core.page import to_html
from depthlab.report.core.planned import planned_runs
from depthlab.report.core.search_section import search_sections
from depthlab.report.core.side_by_side import Sweep, compare_sweeps, differences, unpaired
from depthlab.report.core.table import Table, write_tables
from depthlab.report.core.terminal import print_document
from depthlab.report.depth_study.best_rate import rate_sections
from depthlab.report.depth_study.depth_figures import error_vs_depth
from depthlab.report.depth_study.quads import declared_pairs
from depthlab.report.depth_study.study import (
    QUESTION,
    claims_sections,
    is_depth_setting,
    is_depth_study,
    published_sections,
)

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
    markdown_name: str = "report.md",
    side_by_side: bool = False,
    margin: float | None = None,
) -> Report:
    """Write the report of the runs below `folders` into `out`.

    Args:
        folders: folders of sweeps, or of single runs.
        out: where report.html, the Markdown page, tables/ and figures/ go; made if it is not there.
        markdown_name: the file name of the Markdown page, README.md for a results folder.
        side_by_side: keep the folders apart and compare their networks, instead of reading them as one sweep.
        margin: the difference in points up to which two recipes count as equal; by default what the experiment's
            file states.

    Raises:
        InputError: a folder does not exist, or holds no run that can be reported.
    """
    sweeps = read_sweeps(folders, side_by_side)
    content = describe(sweeps, out, folders, margin)
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


def describe(sweeps: Sequence[Sweep], out: Path, folders: Sequence[Path] = (), margin: float | None = None) -> Document:
    """Everything the report says, the figures drawn but not yet written."""
    runs = [run for sweep in sweeps for run in sweep.found.runs]
    found = Collection(runs, [item for sweep in sweeps for item in sweep.found.left_out])
    groups = [group for sweep in sweeps for group in sweep.groups]
    settings = [setting for sweep in sweeps for setting in sweep.settings]
    curves = {group.label: read_group_curves(group) for group in groups}
    if margin is None:
        margin = declared_margin([str(run.record["name"]) for run in runs])
    sections = [
        *search_sections(folders),
        *claims_sections(sweeps),
        *rate_sections(groups),
        *_missing(found, settings, sweeps, folders),
        Section("Results", tables=_result_tables(sweeps, groups, curves)),
        *published_sections(groups),
        Section("Figures", figures=tuple(draw(settings, groups, curves))),
        *_comparisons(sweeps, margin),
        *_classes(settings),
        Section("Every value", tables=(summary_tables.values_table(groups),)),
        Section("Runs", tables=(summary_tables.runs_table(found, out),)),
        Section("Commands", text="\n".join(overview.commands(found))),
        Section("Hardware, time and versions", lines=tuple(f"{k}: {v}" for k, v in overview.conditions(found))),
    ]
    return Document(
        " and ".join(sweep.name for sweep in sweeps),
        QUESTION if is_depth_study(settings) else overview.question(groups),
        overview.summary_line(found),
        tuple(sections),
    )


def draw(settings: Sequence[Setting], groups: Sequence[Group], curves: Mapping[str, GroupCurves]) -> list[Figure]:
    """Every figure; from the second setting on, names are numbered and titles say which setting it is."""
    drawn = []
    parts = _drawn_together(settings, groups)
    several = sum(len(group.finished) for group in groups) > 1  # one point alone says no more than its number
    if several and (not all(is_depth_setting(setting) for setting in parts) or len(parts) > 1):
        with style.look():
            drawn.append(strip_plot(groups))
    for number, setting in enumerate(parts[:MOST_DRAWN], start=1):
        with style.look():
            made = [error_vs_depth(setting)] if is_depth_setting(setting) else []
            made += [training_curves(setting, curves), *(make(setting) for make in DIAGNOSTIC)]
        for figure in made:
            suffix = f"_{number}" if number > 1 else ""
            title = f"{figure.title} ({setting.label})" if setting.label else figure.title
            drawn.append(replace(figure, name=figure.name + suffix, title=title))
    if len(parts) > MOST_DRAWN:
        labels = "; ".join(setting.label for setting in parts[MOST_DRAWN:])
        drawn.append(Figure("more", "Further settings", f"{MOST_DRAWN} settings are drawn, not: {labels}", None))
    return drawn


def write_report(content: Document, groups: list[Group], out: Path, markdown_name: str) -> Report:
    """Write tables, figures and pages into `out`."""
    write_tables(out / "tables", content.tables)
    for figure in content.figures:
        style.save(figure.drawing, out / "figures", figure.name)
    markdown, page = out / markdown_name, out / "report.html"
    markdown.write_text(to_markdown(content), encoding="utf-8")
    page.write_text(to_html(content, out / "figures"), encoding="utf-8")
    drawn = [figure for figure in content.figures if figure.drawing is not None]
    main = next((figure for figure in drawn if figure.name == "error_vs_depth"), drawn[0] if drawn else None)
    return Report(content, groups, markdown, page, out / "figures" / f"{main.name}.png" if main else None)


def print_report(report: Report) -> None:
    """Show the report in the terminal."""
    print_document(report.document, report.groups, report.page, report.figure)


def _missing(
    found: Collection, settings: Sequence[Setting], sweeps: Sequence[Sweep], folders: Sequence[Path]
) -> list[Section]:
    lines = [
        *overview.superseded(folders),
        *overview.missing_runs(found, settings, planned_runs(folders)),
        *(unpaired(sweeps) if len(sweeps) > 1 else []),
        *(f"{item.what}: excluded, {item.reason}" for item in found.left_out),
    ]
    return [Section("Missing, incomplete and excluded", lines=tuple(lines), in_terminal=True)] if lines else []


def _result_tables(
    sweeps: Sequence[Sweep], groups: Sequence[Group], curves: Mapping[str, GroupCurves]
) -> tuple[Table, ...]:
    tables = [summary_tables.networks_table(groups)]
    steps = steps_table([curves[group.label] for group in groups])
    tables += [steps] if steps.rows else []
    if len(sweeps) > 1:
        tables.append(summary_tables.configurations_table([sweep.name for sweep in sweeps], differences(sweeps)))
    return tuple(tables)


def _comparisons(sweeps: Sequence[Sweep], margin: float | None) -> list[Section]:
    """The exploratory table; with a margin, a sentence for each pair of recipes of one network."""
    groups = [group for sweep in sweeps for group in sweep.groups]
    keys = list(dict.fromkeys(key for group in groups for key in _compared_keys(group)))
    across = [c for key in keys for c in (compare_sweeps(sweeps, key) if len(sweeps) > 1 else [])]
    recipes = [c for sweep in sweeps for key in keys for c in compare_recipes(sweep.groups, sweep.settings, key)]
    within = [c for sweep in sweeps for s in sweep.settings for key in keys for c in _undeclared(s, key)]
    comparisons: list[Comparison] = [*across, *recipes, *within]
    if not comparisons:
        return []
    lines = tuple(f"{sentence(c, margin)}." for c in (*across, *recipes)) if margin is not None else ()
    return [Section("Exploratory comparisons", lines=lines, tables=(summary_tables.comparisons_table(comparisons),))]


def _undeclared(setting: Setting, key: str) -> list[Comparison]:
    """The comparisons of a setting without those that the claims make, whose intervals stand with the claims."""
    declared = declared_pairs(setting) if is_depth_setting(setting) else set()
    return [c for c in compare(setting, key) if (c.first.label, c.second.label, key) not in declared]


def _compared_keys(group: Group) -> list[str]:
    """Training and test values; with folds, the folds' own validation values between them."""
    splits = ("train", "val", "test") if group.has_folds else ("train", "test")
    return [f"{split}/{group.task.primary}" for split in splits]


def _classes(settings: Sequence[Setting]) -> list[Section]:
    """Classification report and confused pairs of the networks whose confusion the first setting's figure shows."""
    if not settings:
        return []
    members = read_shown(settings[0], "predictions", [])
    if not members:
        return []
    classes = class_names(settings[0].groups, members)
    return [Section("Classes", tables=(class_report(members, classes), confused_pairs(members, classes)))]


def _drawn_together(settings: Sequence[Setting], groups: Sequence[Group]) -> list[Setting]:
    """The settings; as one where each is a single network, as in a sweep over a key of one network."""
    same_task = len({group.task.name for group in groups}) == 1
    if len(settings) > 1 and same_task and all(len(setting.groups) == 1 for setting in settings):
        return [Setting(tuple(groups), "")]
    return list(settings)


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; with the parent's where two are equal."""
    paths = [folder.resolve() for folder in folders]
    names = [path.name for path in paths]
    return [
        name if names.count(name) == 1 else f"{path.parent.name}/{name}"
        for name, path in zip(names, paths, strict=True)
    ]
