"""Train a run or a sweep: python train.py --help"""

import sys

from depthlab.runs.exits import prepare_signals

if __name__ == "__main__":
    prepare_signals()  # before the imports, which take a second

    from depthlab.commands.train import main

    sys.exit(main())
