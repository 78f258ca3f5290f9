"""Turn the records of a sweep into tables, figures and a page: python scripts/report.py logs/quickstart"""

from depthlab.commands.report import main
from depthlab.runs.exits import end_with

if __name__ == "__main__":
    end_with(main)
