"""Turn the records of a sweep into tables, figures and a page: python scripts/report.py logs/quickstart"""

import sys

from depthlab.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
