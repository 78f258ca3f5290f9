"""Evaluate a finished run again: python scripts/evaluate.py run=logs/NAME/RUN"""

from depthlab.commands.evaluate import main
from depthlab.runs.exits import end_with

if __name__ == "__main__":
    end_with(main)
