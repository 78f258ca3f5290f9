"""Copy the runs of sweeps into results/, small enough to be committed, and write their reports there.

depthlab publish logs/digits_depth        -> results/digits_depth/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from depthlab.config.program import command_words
from depthlab.errors import InputError
from depthlab.records.publishing import publish


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish the folders named; the exit code, 2 if one holds nothing to publish."""
    prog, formatter = " ".join(command_words(sys.argv, "publish")), argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=formatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sweeps below logs/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the copies go (results/)")
    options = parser.parse_args(arguments)
    from depthlab.report.report import make_report, print_report

    try:
        for folder in options.folders:
            target = options.results / folder.resolve().name
            copies = publish(folder, target)
            print_report(make_report([target], target, markdown_name="README.md"))
            print(f"{len(copies)} runs -> {target}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
