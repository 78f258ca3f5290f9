"""List runs with state, step, error and age: python scripts/status.py logs"""

import sys

from depthlab.commands.status import main

if __name__ == "__main__":
    sys.exit(main())
