"""Evaluate a finished run again, from its directory alone: depthlab evaluate run=logs/NAME/RUN

Options: data_dir=DIR where the data are now; accelerator=cpu|gpu to use another device than the run.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from depthlab.errors import InputError
from depthlab.records.metrics import describe
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
        record = read_record(Path(options["run"]))
        recorded = record.metrics
        from depthlab.runs.evaluate import evaluate_run  # imports torch, which takes seconds: after most mistakes

        data_dir = options.get("data_dir") or os.environ.get("DEPTHLAB_DATA_DIR")
        metrics = evaluate_run(options["run"], data_dir, options.get("accelerator"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in sorted(metrics.items()):
        print(f"{name:12} {value!r:24} recorded {recorded.get(name)!r}")
    main_metric = describe(record).main
    compared = {name: value for name, value in metrics.items() if name == main_metric.key(name.partition("/")[0])}
    return 0 if all(_agree(recorded.get(name), value, main_metric.unit) for name, value in compared.items()) else 1


def _agree(recorded: float | None, value: float, unit: str) -> bool:
    """Percentages count images and are equal; other metrics may differ in their last digits."""
    if recorded is None:
        return True
    return recorded == value if unit == "%" else math.isclose(recorded, value, rel_tol=1e-6)


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
