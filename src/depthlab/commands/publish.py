"""Copy the runs of sweeps into results/, small enough to be committed, and write their reports there.

depthlab publish logs/digits_depth              -> results/digits_depth/
depthlab publish --pages results/digits_depth   makes its pages anew from the records there
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from depthlab.config.program import command_words
from depthlab.errors import InputError
from depthlab.records.atomic_files import STAGING, remove_leftovers, replacing_folder
from depthlab.records.provenance import note_publication, write_manifest
from depthlab.records.published_pages import README, tidy_pages
from depthlab.records.publishing import publish
from depthlab.shown_text import counted, lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish the folders named; the exit code, 2 if one holds nothing to publish."""
    prog, formatter = " ".join(command_words(sys.argv, "publish")), argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=formatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sweeps below logs/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the copies go (results/)")
    parser.add_argument("--allow-dirty", action="store_true", help="also runs of source that no commit has")
    parser.add_argument("--allow-mixed", action="store_true", help="also runs of different source in one folder")
    parser.add_argument(
        "--pages", action="store_true", help="the folders are published ones: only make their pages anew"
    )
    options = parser.parse_args(arguments)
    try:
        for folder in options.folders:
            _publish(folder, options)
        remove_leftovers(options.results)
        write_manifest(options.results)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = lines(str(error.filename or options.results)[:200])
        print(f"error: {where}: {error.strerror}. Nothing was published there.", file=sys.stderr)
        return 2
    return 0


def _publish(folder: Path, options: argparse.Namespace) -> None:
    """Publish one folder, or make its pages anew: all files at once, so that a kill leaves no mixture."""
    from depthlab.report.report import make_report, print_report

    target = folder if options.pages else options.results / folder.resolve().name
    if not target.is_relative_to(options.results):
        raise InputError(f"{target} is not below {options.results}. Name that folder with --results.")
    with replacing_folder(options.results, target) as copy:
        if not options.pages:
            published = publish(folder, target, options.allow_dirty, options.allow_mixed, copy)
        report = make_report([copy], copy, markdown_name=README)
        tidy_pages(copy, options.results / STAGING)
    if not options.pages:
        note_publication(options.results, target)
        print(f"{counted(len(published), 'run')} -> {target}")
    figure = target / report.figure.relative_to(copy) if report.figure else None
    print_report(replace(report, page=target / report.page.name, figure=figure))
