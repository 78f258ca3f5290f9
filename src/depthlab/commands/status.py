"""List runs with state, step, error and age: depthlab status logs

--remove-checkpoints   remove the checkpoints of finished runs (their records and curves stay)
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Column, Table
from rich.text import Text

from depthlab.config.console import TextConsole
from depthlab.config.program import command_words
from depthlab.errors import InputError
from depthlab.records.directory import is_held
from depthlab.records.metrics import common_metric, describe
from depthlab.records.record import FILE_NAME, Record, find_records, read_record
from depthlab.records.record_checks import MOST_STEPS
from depthlab.records.safe_files import is_inside
from depthlab.shown_text import lines, one_line

SPLITS = ("train", "test")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code, 2 if there is nothing to list."""
    prog, formatter = " ".join(command_words(sys.argv, "status")), argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=formatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("logs"))
    parser.add_argument("--remove-checkpoints", action="store_true")
    options = parser.parse_args(arguments)
    try:
        directories = list(find_records(options.folder)) if options.folder.is_dir() else []
    except OSError as error:
        print(f"error: {lines(str(options.folder)[:200])} cannot be read ({error.strerror}).", file=sys.stderr)
        return 2
    if not directories:
        missing = f"error: {options.folder} holds no runs. Give the folder that runs were written to."
        print(lines(missing), file=sys.stderr)
        return 2
    TextConsole().print(_table(directories, options.folder))
    if options.remove_checkpoints:
        _remove_checkpoints(directories)
    return 0


def _table(directories: list[Path], folder: Path) -> Table:
    records = {directory: _read(directory) for directory in directories}
    common = common_metric([record for record in records.values() if isinstance(record, Record)])
    titles = [Column(Text(one_line(f"{split} {common.title}" if common else split))) for split in SPLITS]
    table = Table(Column("run", overflow="fold"), "state", "step", *titles, "age", box=None)
    for directory, record in records.items():
        cells = _cells(record, directory) if isinstance(record, Record) else [f"damaged: {record}"]
        table.add_row(*(Text(one_line(cell)) for cell in (str(directory.relative_to(folder)), *cells)))
    return table


def _read(directory: Path) -> Record | str:
    """The record, or why it cannot be read."""
    try:
        return read_record(directory)
    except InputError as error:
        return str(error)


def _cells(record: Record, directory: Path) -> list[str]:
    status = record.status
    if status == "running" and not is_held(directory):
        status = "interrupted"
    if record.stopped_early:
        status += " early"
    max_steps = record.config.get("trainer", {}).get("max_steps")
    metric = describe(record).main
    planned = f"/{max_steps:,}" if isinstance(max_steps, int) and abs(max_steps) <= MOST_STEPS else ""
    return [
        status,
        f"{record.steps:,}{planned}",
        *(metric.show(record.metrics.get(metric.key(split))) for split in SPLITS),
        _age(directory),
    ]


def _age(directory: Path) -> str:
    """How long ago the record was written; of a published run, "-"."""
    try:
        changed_at = (directory / FILE_NAME).stat().st_mtime
    except OSError:
        return "-"
    return str(datetime.timedelta(seconds=round(max(0.0, time.time() - changed_at))))


def _remove_checkpoints(directories: list[Path]) -> None:
    freed = 0
    for directory in directories:
        try:
            is_finished = read_record(directory).status == "finished"
        except InputError:
            continue
        folder = directory / "checkpoints"
        if is_finished and is_inside(folder, directory):
            for path in folder.glob("step-*.ckpt*"):
                freed += path.stat().st_size
                path.unlink()
    print(f"removed the checkpoints of finished runs: {freed / 1e6:.1f} MB")
