"""Copy the runs of sweeps into results/: python scripts/publish.py logs/digits_depth"""

from depthlab.commands.publish import main
from depthlab.runs.exits import end_with

if __name__ == "__main__":
    end_with(main)
