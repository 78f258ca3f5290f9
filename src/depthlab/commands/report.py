"""Turn the records of sweeps into tables, figures and a page: depthlab report logs/quickstart"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from depthlab.config.program import command_words
from depthlab.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Report the folders named; the exit code, 2 if nothing can be reported."""
    options = _parse(arguments)
    from depthlab.report.report import make_report, print_report

    try:
        report = make_report(
            options.folders,
            options.out or _default_out(options),
            options.markdown_name,
            side_by_side=options.compare,
            margin=options.margin,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the report cannot be written: {error}. Choose another place with --out.", file=sys.stderr)
        return 2
    print_report(report)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=" ".join(command_words(sys.argv, "report")), description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sweeps, such as logs/quickstart")
    parser.add_argument("--compare", action="store_true", help="set the folders side by side instead of pooling them")
    parser.add_argument("--out", type=Path, help="where to write (default: report/ in the first folder)")
    parser.add_argument(
        "--margin",
        type=_positive,
        help="points up to which two recipes count as equal (default: `# Margin:` in the experiment's file)",
    )
    parser.add_argument("--markdown-name", default="report.md", help="README.md for a results folder")
    options = parser.parse_args(arguments)
    if options.compare and len(options.folders) < 2:
        parser.error("--compare needs two folders")
    return options


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 100:
        raise ValueError
    return value


def _default_out(options: argparse.Namespace) -> Path:
    """A comparison gets a folder of its own, so that it does not replace the first sweep's report."""
    first: Path = options.folders[0]
    if not options.compare:
        return first / "report"
    return first / f"compare_{'_'.join(folder.resolve().name for folder in options.folders[1:])}"
