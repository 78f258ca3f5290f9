"""Make the README's tables anew from results/: python scripts/update_readme.py

With --check nothing is written; the exit code is 1 where the README says something else than results/.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from depthlab.errors import InputError
from depthlab.report.readme_blocks import draw, fill

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Fill the blocks; 2 where one cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    try:
        after = fill(before, ROOT / "results")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.check:
        print("README.md repeats results/" if after == before else "README.md differs from results/: run this again")
        return int(after != before)
    draw(before, ROOT / "results")
    readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
