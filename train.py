"""Train a run or a sweep: python train.py --help"""

from depthlab.runs.exits import end_with, prepare_signals

if __name__ == "__main__":
    prepare_signals()  # before the imports, which take a second

    from depthlab.commands.train import main

    end_with(main)
