"""Measure a finished run again, from its directory alone: python scripts/evaluate.py run=logs/NAME/RUN

Options: data_dir=DIR where the data lie now, accelerator=cpu|gpu to use another device than the run did.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from depthlab.errors import InputError
from depthlab.records.record import read_record

OPTIONS = ("run", "data_dir", "accelerator")


def main() -> int:
    """Print the metrics beside the recorded ones; 0 if the errors agree to the digit, 1 if not, 2 on a mistake."""
    try:
        options = _parse(sys.argv[1:])
        recorded = read_record(Path(options["run"]))["metrics"]
        from depthlab.runs.evaluate import evaluate_run  # seconds of imports, after most mistakes

        data_dir = options.get("data_dir") or os.environ.get("DEPTHLAB_DATA_DIR")
        metrics = evaluate_run(options["run"], data_dir, options.get("accelerator"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in sorted(metrics.items()):
        print(f"{name:12} {value!r:24} recorded {recorded.get(name)!r}")
    # Losses may differ in their last digits where the run summed over several processes; counts of errors may not.
    errors = {name: value for name, value in metrics.items() if name.endswith("/err")}
    return 0 if all(recorded.get(name) in (None, value) for name, value in errors.items()) else 1


def _parse(arguments: list[str]) -> dict[str, str]:
    options = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or key not in OPTIONS:
            raise InputError(f"{argument}: the options are {', '.join(f'{name}=...' for name in OPTIONS)}.")
        options[key] = value
    if "run" not in options:
        raise InputError("which run? Give run=DIRECTORY.")
    return options


if __name__ == "__main__":
    sys.exit(main())
