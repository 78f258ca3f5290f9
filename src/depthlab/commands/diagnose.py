"""Diagnose a network: depthlab diagnose model=resnet20 [OVERRIDE ...] [against=MODEL] [out=FOLDER] [--json]

depthlab diagnose model=plain56 data=digits       a network as a run would begin with it
depthlab diagnose run=logs/NAME/RUN               a finished run, with its last weights
depthlab diagnose experiment=diagnosis            two streams beside their fully connected counterpart

For each layer parameters, multiply-adds and shapes; for each tensor whether a gradient reaches it and one step moves
it; growth of the gradient, dead units, speed and memory. Prints findings and tables, and writes diagnosis.json and
diagnosis.html into FOLDER (default: logs/diagnosis/NAME).

against=MODEL   another network, for speed and memory; two streams are compared with two_stream_dense unless
                against=none
data_dir=DIR    where the data of the run are now
--json          print the diagnosis as JSON and nothing else

Exit code: 0 without defects, 1 with defects, 2 on a mistake.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from depthlab.errors import InputError
from depthlab.shown_text import as_json

if TYPE_CHECKING:
    from depthlab.config.schema import TrainConfig

T = TypeVar("T")
OPTIONS = ("run", "against", "out", "data_dir")
FILE = "diagnosis.json"
COUNTERPART = "two_stream_dense"  # that a network in two streams is compared with


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the diagnosis; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    from depthlab.config.commandline import CONFIGURATION_ERRORS, explain

    try:
        options, overrides = split_options(arguments, OPTIONS)
        found, folder = _diagnose(options, overrides)
        folder = Path(options.get("out") or folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(as_json(found) + "\n", encoding="utf-8")
        from depthlab.report.diagnosis import PAGE, print_diagnosis, write_page

        document = write_page(found, folder)
    except (InputError, OSError, *CONFIGURATION_ERRORS) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    if "json" in options:
        print(as_json(found))
    else:
        print_diagnosis(found, document, folder / PAGE)
    return 1 if found["defects"] else 0


def split_options(arguments: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """A command's own words NAME=VALUE and --json, and the overrides between them."""
    options: dict[str, str] = {}
    overrides = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if argument == "--json":
            options["json"] = "true"
        elif argument.startswith("-"):
            raise InputError(f"{argument}: no such option. --help says more.")
        elif separator and name in names:
            if not value:
                raise InputError(f"{argument}: what? Give a value after the =.")
            options[name] = value
        else:
            overrides.append(argument)
    return options, overrides


@contextmanager
def progress_bar(parts: Sequence[T], title: str) -> Iterator[Callable[[T], None]]:
    """A bar on standard error that moves on to each of `parts` that is named; none where that is no terminal."""
    from rich.progress import Progress

    from depthlab.config.console import TextConsole

    console = TextConsole(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=len(parts))

        def watch(part: T) -> None:
            bar.update(task, completed=list(parts).index(part), description=f"{title}: {part}")

        yield watch


def _diagnose(options: dict[str, str], overrides: list[str]) -> tuple[dict[str, Any], Path]:
    """The diagnosis as plain data, and where it goes unless something else is said."""
    if "run" in options and overrides:
        raise InputError(f"{overrides[0]}: a run has its own configuration. Give run=... or overrides, not both.")
    from depthlab.config.check import check
    from depthlab.config.commandline import composed
    from depthlab.config.folder import config_dir
    from depthlab.runs.defects import KINDS
    from depthlab.runs.diagnose import PARTS, diagnose_model, diagnose_run
    from depthlab.runs.open_run import open_run

    with progress_bar(PARTS, "diagnose") as watch:
        if "run" in options:
            run = open_run(options["run"], options.get("data_dir") or os.environ.get("DEPTHLAB_DATA_DIR"))
            found = diagnose_run(run, _other(run.config, options.get("against")), watch)
            weights, name, logs = f"last weights of {run.name}", run.name, Path("logs")
        else:
            config = check(composed(overrides, config_dir()))
            if "data_dir" in options:
                config.paths.data_dir = options["data_dir"]
            counterpart = COUNTERPART if config.model.two_stream else None
            found = diagnose_model(config, _other(config, options.get("against", counterpart)), watch)
            weights, name, logs = "initial weights", config.model.name, Path(config.paths.log_dir)
    return {"weights": weights, "checked": KINDS, **found.as_dict()}, logs / "diagnosis" / name


def _other(config: TrainConfig, model: str | None) -> TrainConfig | None:
    """The same configuration with another network."""
    if model in (None, "none"):
        return None
    from depthlab.config.check import check
    from depthlab.config.commandline import composed
    from depthlab.config.folder import config_dir
    from depthlab.config.schema import as_dict

    return check({**as_dict(config), "model": composed([f"model={model}"], config_dir())["model"]})
