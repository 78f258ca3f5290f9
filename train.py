"""Train a run or a sweep: python train.py --help"""

import sys

from depthlab.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
