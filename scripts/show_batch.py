"""Save a training batch as a picture: python scripts/show_batch.py --help"""

from depthlab.commands.data import show_batch
from depthlab.runs.exits import end_with

if __name__ == "__main__":
    end_with(show_batch)
