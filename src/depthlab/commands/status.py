"""List runs with state, step, error and age: depthlab status logs

--remove-checkpoints   remove the checkpoints of finished runs (their records and curves stay)
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from depthlab.config.program import command_words
from depthlab.errors import InputError
from depthlab.records.directory import is_held
from depthlab.records.record import find_records, read_record


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code, 2 if there is nothing to list."""
    prog, formatter = " ".join(command_words(sys.argv, "status")), argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=formatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("logs"))
    parser.add_argument("--remove-checkpoints", action="store_true")
    options = parser.parse_args(arguments)
    directories = list(find_records(options.folder)) if options.folder.is_dir() else []
    if not directories:
        print(f"error: {options.folder} holds no runs. Give the folder that runs were written to.", file=sys.stderr)
        return 2
    Console().print(_table(directories, options.folder))
    if options.remove_checkpoints:
        _remove_checkpoints(directories)
    return 0


def _table(directories: list[Path], folder: Path) -> Table:
    table = Table(Column("run", overflow="fold"), "state", "step", "train error", "test error", "age", box=None)
    for directory in directories:
        try:
            cells = _cells(read_record(directory), directory)
        except InputError as error:
            cells = [f"damaged: {error}"]
        table.add_row(*(escape(cell) for cell in (str(directory.relative_to(folder)), *cells)))
    return table


def _cells(record: dict[str, Any], directory: Path) -> list[str]:
    status = record["status"]
    if status == "running" and not is_held(directory):
        status = "interrupted"
    max_steps = record["config"].get("trainer", {}).get("max_steps")
    metrics = record["metrics"]
    touched = datetime.datetime.fromtimestamp((directory / "record.json").stat().st_mtime)
    age = str(datetime.datetime.now() - touched).split(".")[0]
    errors = [_percent(metrics.get(name)) for name in ("train/err", "test/err")]
    return [
        status,
        f"{record['steps']:,}/{max_steps:,}" if isinstance(max_steps, int) else f"{record['steps']:,}",
        *errors,
        age,
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"


def _remove_checkpoints(directories: list[Path]) -> None:
    freed = 0
    for directory in directories:
        try:
            is_finished = read_record(directory)["status"] == "finished"
        except InputError:
            continue
        if is_finished:
            for path in (directory / "checkpoints").glob("step-*.ckpt*"):
                freed += path.stat().st_size
                path.unlink()
    print(f"removed the checkpoints of finished runs: {freed / 1e6:.1f} MB")
