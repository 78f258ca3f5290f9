"""Show where in an image a run finds its answer: depthlab explain run=DIR images=FILE|FOLDER|test [against=DIR]

images=...      a picture, a folder of pictures, or test, val or train: images of that split of the run's data
number=16       at most so many images
method=gradcam  or saliency, occlusion
layer=layer2    of gradcam (default: the last stage)
against=DIR     a second run on the same sheet, such as the plain twin of a residual network
out=FOLDER      where the pictures go (default: logs/explain/RUN): one for each image and run, and sheet.png
data_dir=DIR    where the data of the run are now
--json          print image, class, confidence and file as JSON and nothing else

Needs captum: pip install -e '.[explain]'
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlab.commands.diagnose import progress_bar
from depthlab.config.program import key_values
from depthlab.errors import InputError
from depthlab.shown_text import as_json

if TYPE_CHECKING:
    from depthlab.runs.explain import Attributions
    from depthlab.runs.open_run import OpenRun

OPTIONS = ("run", "images", "number", "method", "layer", "against", "out", "data_dir")
SHEET = "sheet.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pictures; the exit code, 2 on a mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        options = key_values(arguments, OPTIONS, ("run", "images"))
        rows, sheet = _explain(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename} cannot be written ({error.strerror}). Choose another out=...", file=sys.stderr)
        return 2
    if "json" in options:
        print(as_json({"sheet": str(sheet), "images": rows}))
    else:
        _print(rows, sheet)
    return 0


def _explain(options: dict[str, str]) -> tuple[list[dict[str, Any]], Path]:
    """Rows for each image and run, and the sheet."""
    from depthlab.runs.explain import draw_sheet, explain, write_overlays
    from depthlab.runs.open_run import open_run

    number = options.get("number", "16")
    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"number={number}: an integer >= 1 is expected.")
    data_dir = options.get("data_dir") or os.environ.get("DEPTHLAB_DATA_DIR")
    runs = [open_run(options[name], data_dir) for name in ("run", "against") if name in options]
    _check_twins(runs)
    images, labels = _images(runs[0], options["images"], int(number))
    found: list[Attributions] = []
    for run in runs:
        with progress_bar(range(len(images) + 1), run.name) as watch:
            found.append(explain(run, images, options.get("method", "gradcam"), options.get("layer"), watch))
    folder = Path(options.get("out") or Path("logs") / "explain" / runs[0].name)
    folder.mkdir(parents=True, exist_ok=True)
    draw_sheet(found, labels).save(folder / SHEET, optimize=True)
    rows = [row for each in found for row in write_overlays(each, folder)]
    if labels:
        rows = [{**row, "label": label} for row, label in zip(rows, labels * len(found), strict=True)]
    return rows, folder / SHEET


def _check_twins(runs: Sequence[OpenRun]) -> None:
    """Two runs can be compared where they see the same images and name the same classes."""
    first = runs[0].preprocessing
    for other in runs[1:]:
        if other.preprocessing.image_shape != first.image_shape or other.classes != first.classes:
            raise InputError(f"against={other.place}: {other.name} has other images or classes than {runs[0].name}.")


def _images(run: OpenRun, name: str, number: int) -> tuple[Any, list[str]]:
    """The first `number` images of a split, with the names of their classes, or of a file or folder."""
    from depthlab.data.batch import SPLITS

    if name in SPLITS and not Path(name).exists():
        images, labels, classes = run.data(name)
        return images[:number], [classes[label] for label in labels[:number]] if classes else []
    pictures = run.preprocessing.pictures(name)
    return list(pictures.sources[:number]), []


def _print(rows: Sequence[dict[str, Any]], sheet: Path) -> None:
    from rich.table import Column, Table

    from depthlab.config.console import TextConsole

    known = ["label"] if "label" in rows[0] else []
    table = Table("image", *known, "class", "confidence", Column("run", overflow="fold"), box=None)
    for row in rows:
        labels = [row[name] for name in known]
        table.add_row(Path(row["image"]).name, *labels, row["class"], f"{row['confidence']:.3f}", row["run"])
    console = TextConsole(soft_wrap=True)
    console.print(table)
    console.print(f"sheet: {sheet}")
