"""Evaluate a finished run again, from its directory alone: depthlab evaluate run=logs/NAME/RUN

Options: data_dir=DIR where the data are now; accelerator=cpu|gpu to use another device than the run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from depthlab.errors import InputError
from depthlab.records.record import read_record

OPTIONS = ("run", "data_dir", "accelerator")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the metrics beside the recorded ones; 0 if the errors are equal, 1 if not, 2 on a mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        options = _parse(arguments)
        recorded = read_record(Path(options["run"]))["metrics"]
        from depthlab.runs.evaluate import evaluate_run  # imports torch, which takes seconds: after most mistakes

        data_dir = options.get("data_dir") or os.environ.get("DEPTHLAB_DATA_DIR")
        metrics = evaluate_run(options["run"], data_dir, options.get("accelerator"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in sorted(metrics.items()):
        print(f"{name:12} {value!r:24} recorded {recorded.get(name)!r}")
    # Losses may differ in their last digits if the run summed over several processes; counts of errors may not.
    errors = {name: value for name, value in metrics.items() if name.endswith("/err")}
    return 0 if all(recorded.get(name) in (None, value) for name, value in errors.items()) else 1


def _parse(arguments: Sequence[str]) -> dict[str, str]:
    options = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or key not in OPTIONS:
            raise InputError(f"{argument}: the options are {', '.join(f'{name}=...' for name in OPTIONS)}.")
        options[key] = value
    if "run" not in options:
        raise InputError("which run? Give run=DIRECTORY.")
    return options
