"""Copy the runs of sweeps into results/: python scripts/publish.py logs/digits_depth"""

import sys

from depthlab.commands.publish import main

if __name__ == "__main__":
    sys.exit(main())
