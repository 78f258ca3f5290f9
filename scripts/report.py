"""Turn the records of a sweep into tables, figures and a page: python scripts/report.py logs/quickstart."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from depthlab.errors import InputError


def main() -> int:
    """The command line; the exit status is 2 where nothing can be reported."""
    arguments = _parse()
    from depthlab.report.report import make_report, print_report

    try:
        report = make_report(
            arguments.folders,
            arguments.out or _default_out(arguments),
            arguments.markdown_name,
            side_by_side=arguments.compare,
            margin=arguments.margin,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the report cannot be written: {error}. Choose another place with --out.", file=sys.stderr)
        return 2
    print_report(report)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sweeps, such as logs/quickstart")
    parser.add_argument("--compare", action="store_true", help="set the folders side by side instead of pooling them")
    parser.add_argument("--out", type=Path, help="where to write (default: report/ in the first folder)")
    parser.add_argument(
        "--margin",
        type=_positive,
        help="points up to which two recipes count as equal (default: `# Margin:` in the experiment's file)",
    )
    parser.add_argument("--markdown-name", default="report.md", help="README.md for a results folder")
    arguments = parser.parse_args()
    if arguments.compare and len(arguments.folders) < 2:
        parser.error("--compare needs two folders")
    return arguments


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 100:
        raise ValueError
    return value


def _default_out(arguments: argparse.Namespace) -> Path:
    """A comparison gets a folder of its own, so that it does not replace the first sweep's report."""
    first: Path = arguments.folders[0]
    if not arguments.compare:
        return first / "report"
    return first / f"compare_{'_'.join(folder.resolve().name for folder in arguments.folders[1:])}"


if __name__ == "__main__":
    sys.exit(main())
