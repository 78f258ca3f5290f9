"""Copy a sweep's runs into results/ in a form fit to be committed, and write their report there.

python scripts/publish.py logs/digits_depth        -> results/digits_depth/
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from depthlab.errors import InputError
from depthlab.records.publishing import publish
from depthlab.report.report import make_report, print_report


def main() -> int:
    """Publish the folders named on the command line; 2 where one holds nothing to publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sweeps below logs/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the copies go (results/)")
    arguments = parser.parse_args()
    try:
        for folder in arguments.folders:
            target = arguments.results / folder.resolve().name
            copies = publish(folder, target)
            print_report(make_report([target], target, markdown_name="README.md"))
            print(f"{len(copies)} runs -> {target}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
