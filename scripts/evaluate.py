"""Evaluate a finished run again: python scripts/evaluate.py run=logs/NAME/RUN"""

import sys

from depthlab.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
