"""Save a training batch as a picture: python scripts/show_batch.py --help"""

import sys

from depthlab.commands.data import show_batch

if __name__ == "__main__":
    sys.exit(show_batch())
