"""Measure speed, this project against a plain PyTorch loop: python scripts/benchmark.py --help"""

import sys

from depthlab_benchmarks.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
