"""The command line of one run whose configuration is composed already: python -m depthlab.job CONFIG.json

Sweeps start one such process for each run, and data-parallel training one for each device.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from depthlab.errors import InputError
from depthlab.records.directory import Held
from depthlab.sweeps import exits
from depthlab.sweeps.process import die_with_parent


def perform(tree: dict[str, object], command: str) -> int:
    """Check a resolved configuration, run it, print its line; the exit code of the process."""
    from depthlab.checks import check

    # Until the first step and after the last one there is nothing to save: the checkpoints there are suffice.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(exits.CONTINUE_ME))
    try:
        config = check(tree)
        from depthlab.run import run  # torch and Lightning take seconds to import; mistakes are found before

        outcome = run(config, command)
    except Held as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.HELD
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.MISTAKE
    except OSError as error:  # no space left, for one; the checkpoints there are stay as they are
        print(f"error: {error}. The same command goes on from the last checkpoint.", file=sys.stderr)
        return exits.FAILED
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return exits.CONTINUE_ME
    if outcome.line:
        print(outcome.line, flush=True)
    return exits.CONTINUE_ME if outcome.status == "interrupted" else exits.DONE


def main() -> int:
    """Run the configuration file named on the command line."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return exits.MISTAKE
    if os.environ.get("LOCAL_RANK", "0") != "0":
        die_with_parent()  # started by Lightning beside the first process, which alone is told to stop
    try:
        frozen = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        tree, command = frozen["config"], frozen["command"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {sys.argv[1]} is not a frozen configuration ({error}).", file=sys.stderr)
        return exits.MISTAKE
    return perform(tree, command)


if __name__ == "__main__":
    sys.exit(main())
