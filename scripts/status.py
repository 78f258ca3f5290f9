"""List runs with state, step, error and age: python scripts/status.py logs"""

from depthlab.commands.status import main
from depthlab.runs.exits import end_with

if __name__ == "__main__":
    end_with(main)
