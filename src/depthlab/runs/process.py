"""The command line of one run whose configuration is composed already: python -m depthlab.runs.process CONFIG.json

Sweeps start one such process for each run, and data-parallel training one for each device.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from depthlab.config.output import outlive_output, prepare_streams
from depthlab.errors import InputError
from depthlab.runs import exits
from depthlab.runs.parent import die_with_parent

if TYPE_CHECKING:
    from depthlab.runs.observer import Observer

FIRST_PROCESS = "DEPTHLAB_FIRST_PROCESS"  # the number of the one that starts the others of a data-parallel run


def perform(
    tree: dict[str, object], command: str, directory: str | None = None, observer: Observer | None = None
) -> int:
    """Check a resolved configuration, run it, print its line; the exit code of the process.

    Args:
        tree: the configuration.
        command: what a person types to get this run.
        directory: the name that the run's directory had when the configuration was frozen.
        observer: is told about the run; see `Observer`.
    """
    from depthlab.config.check import check

    outlive_output()
    exits.stop_when_asked()  # until the first step and after the last one the checkpoints that there are suffice
    try:
        config = check(tree)
        if observer:
            observer.mark("command line")
        from depthlab.runs.run import (  # torch and Lightning take seconds to import; mistakes are found before
            is_first_process,
            run,
        )

        if observer:
            observer.mark("imports")
        outcome = run(config, command, directory, observer)
    except Exception as error:
        if exits.is_stop(error):  # a library has made an error of its own of what the signal raised
            return exits.CONTINUE_ME
        return _refused(error)
    if outcome.line:
        print(outcome.line, flush=True)
    # Lightning kills a run, its first process in the middle of a checkpoint, where another one ends with a code.
    return exits.CONTINUE_ME if outcome.status == "interrupted" and is_first_process() else exits.DONE


def _refused(error: Exception) -> int:
    from depthlab.records.directory import Held

    if isinstance(error, InputError):
        print(f"error: {error}", file=sys.stderr)
        return exits.HELD if isinstance(error, Held) else exits.MISTAKE
    if isinstance(error, OSError):  # no space left, for one; the checkpoints there are stay as they are
        print(f"error: {error}. The same command goes on from the last checkpoint.", file=sys.stderr)
        return exits.FAILED
    raise error


def main() -> int:
    """Run the configuration file named on the command line."""
    exits.stop_when_asked()  # before the imports, which take seconds
    prepare_streams()
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return exits.MISTAKE
    if os.environ.get("LOCAL_RANK", "0") != "0" and FIRST_PROCESS in os.environ:
        die_with_parent(int(os.environ[FIRST_PROCESS]))  # which alone is told to stop
    # Lightning starts the other processes of a run with this environment.
    os.environ.update({FIRST_PROCESS: str(os.getpid()), "PYTHONSAFEPATH": "1"})
    try:
        frozen = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        tree, command, directory = frozen["config"], frozen["command"], frozen.get("directory")
        from depthlab.runs.snapshot import FOLDER, check_snapshot  # needed by processes of a sweep alone

        check_snapshot(Path(sys.argv[1]).absolute().parents[1] / FOLDER, frozen.get("snapshot"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.MISTAKE
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {sys.argv[1]} is not a frozen configuration ({error}).", file=sys.stderr)
        return exits.MISTAKE
    return perform(tree, command, directory)


if __name__ == "__main__":
    exits.end_with(main)
