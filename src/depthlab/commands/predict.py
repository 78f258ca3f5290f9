"""Name the classes of images with the network of a run: depthlab predict run=logs/NAME/RUN images=FILE|FOLDER

run=DIR             a run's directory, or a checkpoint file by itself
images=FILE|FOLDER  image files; where a folder has a folder for each class, the error and the confusion are said too
top=5               how many classes to name for each image
out=FILE.csv        keep a row for each image
weights=last|ema    the run's last weights, or the averages of callbacks=ema
accelerator=cpu|gpu the device; by default the run's kind, where there is one
data_dir=DIR        where the data are; only for runs whose checkpoints do not hold their normalisation yet
--json              print JSON

Images are decoded, scaled and cut as the run's own were. A line says what else was done to them.
"""

from __future__ import annotations

import csv
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table
from rich.text import Text

from depthlab.config.console import TextConsole
from depthlab.config.program import key_values
from depthlab.errors import InputError
from depthlab.records.atomic_files import replacing
from depthlab.shown_text import as_json, for_csv

if TYPE_CHECKING:
    from depthlab.runs.open_run import OpenRun

OPTIONS = ("run", "images", "top", "out", "weights", "accelerator", "data_dir")
SHOWN = 20  # rows on a terminal
CLASSES_SHOWN = 20  # more make no table that can be read
WIDEST = 10_000  # a table is no wider, where nothing cuts it


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the predictions; the exit code, 2 on a mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        options = key_values(arguments, OPTIONS, ("run", "images"))
        top = options.get("top", "5")
        if not top.isdigit() or int(top) < 1:
            raise InputError(f"top={top}: an integer >= 1 is expected.")
        result = _predict(options, int(top))
        if options.get("out"):
            _write(Path(options["out"]), result["images"])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if "json" in options:
        print(as_json(result))
    else:
        _show(result, Path(options["images"]), options.get("out"))
    return 0


def open_for(options: dict[str, str]) -> OpenRun:
    """The run of a command line, with the threads that it computed with."""
    import torch

    from depthlab.runs.open_run import open_run

    data_dir = options.get("data_dir") or os.environ.get("DEPTHLAB_DATA_DIR")
    run = open_run(options["run"], data_dir)
    torch.set_num_threads(run.record.num_threads or 1)
    wanted = options.get("accelerator") or run.record.config.get("trainer", {}).get("accelerator")
    has_gpu = wanted == "gpu" and torch.cuda.is_available()
    if options.get("accelerator") not in (None, "cpu") and not has_gpu:
        raise InputError(f"accelerator={options['accelerator']}: there is no such device here.")
    return open_run(options["run"], data_dir, "cuda") if has_gpu else run


def _predict(options: dict[str, str], top: int) -> dict[str, Any]:
    from depthlab.runs.predict import labels_of  # imports torch, which takes seconds: after most mistakes

    warnings.filterwarnings("error", ".*decompression bomb.*")
    run = open_for(options)
    found = run.predict(options["images"], top, options.get("weights", "last"))
    labels = labels_of(Path(options["images"]), found.names, found.classes)
    rows = found.rows()
    result: dict[str, Any] = {"run": run.name, "images": rows, "notes": found.notes}
    if labels is not None:
        for row, label in zip(rows, labels, strict=True):
            row["label"] = found.classes[label]
        result |= {"error": found.error(labels), "classes": list(found.classes)}
        result["confusion"] = found.confusion(labels).tolist()
    return result


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:  # names of files and classes come from strangers
                writer.writerow({key: for_csv(cell) if isinstance(cell, str) else cell for key, cell in row.items()})
    except OSError as error:
        raise InputError(f"out={path}: it cannot be written ({error.strerror}).") from None


def _show(result: dict[str, Any], images: Path, out: str | None) -> None:
    console, rows = TextConsole(), result["images"]
    for note, count in result["notes"].items():
        console.print(Text(f"{count} of {len(rows)} images: {note}", style="dim"))
    console.print(_table(rows[:SHOWN], images))
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN:,} more{'' if out else '; out=predictions.csv keeps all'}")
    if out:
        console.print(Text(f"{len(rows):,} rows in {out}"), soft_wrap=True)
    if "error" in result:
        console.print(f"error {result['error']:.2f} % of {len(rows):,} images")
        if len(result["classes"]) <= CLASSES_SHOWN:
            console.print(_confusion(console, result["classes"], result["confusion"]))


def _table(rows: list[dict[str, Any]], images: Path) -> Table:
    """A line an image: its name within `images`, its class where the folder says it, the answer, the next classes."""
    folder = images if images.is_dir() else images.parent
    known = ["label"] if "label" in rows[0] else []
    table = Table(Column("image", overflow="fold"), *known, "class", "confidence", box=None)
    others = range(2, 2 + sum(name.startswith("class_") for name in rows[0]))
    if others:
        table.add_column("next, %")
    for row in rows:
        following = ", ".join(f"{row[f'class_{rank}']} {100 * row[f'confidence_{rank}']:.1f}" for rank in others)
        cells = [str(Path(row["image"]).relative_to(folder)), *(row[name] for name in known), row["class"]]
        table.add_row(*map(Text, (*cells, f"{100 * row['confidence']:.1f} %", *([following] if others else []))))
    return table


def _confusion(console: TextConsole, classes: list[str], matrix: list[list[int]]) -> Table:
    """Rows are classes, columns what they were taken for, by their numbers where the names are too long."""

    def drawn(rows: Sequence[str], columns: Sequence[str]) -> Table:
        table = Table("class / predicted", *(Column(Text(name), justify="right") for name in columns), box=None)
        for name, row in zip(rows, matrix, strict=True):
            table.add_row(Text(name), *(str(count) if count else "." for count in row))
        return table

    table = drawn(classes, classes)
    if console.measure(table, options=console.options.update(max_width=WIDEST)).maximum <= console.width:
        return table
    return drawn([f"{idx} {name}" for idx, name in enumerate(classes)], [str(idx) for idx in range(len(classes))])
