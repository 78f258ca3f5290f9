"""Extend a finished run: depthlab extend run=logs/NAME/RUN trainer.max_steps=800

The longer run takes over weights, optimiser, random state and step, and ends as a run of that length from the start.
If this is impossible, it is refused with the reason: for example, if the learning rate depends on trainer.max_steps
before the end of the shorter run. Its directory is a sibling of the run's, and its record names the run.

Options: data_dir=DIR where the data are now; code=any to go on with other code than the run's.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from depthlab.commands.train import become_first_process, freeze_if_shared
from depthlab.config.nearest import nearest
from depthlab.config.output import prepare_streams
from depthlab.config.program import command_words
from depthlab.config.schema import as_dict
from depthlab.errors import InputError
from depthlab.records.directory import Held
from depthlab.records.record import read_record
from depthlab.runs import exits
from depthlab.runs.process import perform

OPTIONS = ("run", "trainer.max_steps", "data_dir", "code")
CODE = ("same", "any")


def main(arguments: Sequence[str] | None = None) -> int:
    """`extend` as the whole of a process, whose streams and signals are prepared first."""
    exits.stop_when_asked()
    prepare_streams()
    return extend(sys.argv[1:] if arguments is None else arguments)


def extend(arguments: Sequence[str]) -> int:
    """Prepare the longer run and train it; the exit code, as of `depthlab train`."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return exits.DONE
    command = shlex.join([*command_words(sys.argv, "extend"), *arguments])
    try:
        options = _parse(arguments)
        parent, max_steps = Path(options["run"]), _steps(options["trainer.max_steps"])
        read_record(parent)  # before torch is imported, which takes seconds
        from depthlab.runs.extend import prepare_extension

        data_dir = options.get("data_dir") or os.environ.get("DEPTHLAB_DATA_DIR")
        code = options.get("code", "same")
        tree = as_dict(prepare_extension(parent, max_steps, command, data_dir, code))
        frozen = freeze_if_shared(tree, command)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.HELD if isinstance(error, Held) else exits.MISTAKE
    except OSError as error:
        print(f"error: {error}. Nothing was changed.", file=sys.stderr)
        return exits.FAILED
    if frozen is not None:
        become_first_process(frozen)
    return perform(tree, command)


def _parse(arguments: Sequence[str]) -> dict[str, str]:
    options = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or key not in OPTIONS:
            raise InputError(f"{argument}: the options are {', '.join(f'{name}=...' for name in OPTIONS)}.")
        options[key] = value
    for name, what in (("run", "which run? Give run=DIRECTORY."), ("trainer.max_steps", "how long? Give {}=STEPS.")):
        if name not in options:
            raise InputError(what.format(name))
    if options.get("code", "same") not in CODE:
        raise InputError(f"code={options['code']}: no such choice. {nearest(options['code'], CODE)}")
    return options


def _steps(text: str) -> int:
    if not (text.isascii() and text.replace("_", "").isdigit() and 0 < int(text) <= 10**9):
        raise InputError(f"trainer.max_steps={text}: give a whole number of steps from 1 to 1,000,000,000.")
    return int(text)
