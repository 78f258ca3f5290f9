"""Save a training batch as a picture: python scripts/show_batch.py --help"""

import sys

from depthlab.commands.show_batch import main

if __name__ == "__main__":
    sys.exit(main())
