"""A data set at a glance: depthlab data data=cifar10 [OVERRIDE ...] [out=FOLDER] [--json]

One page: images by class and split, imbalance, sizes, the mean image of each class, duplicates within and across splits
(equal in every byte), and training images before and after augmentation. The overrides are those of `train`. Writes
data.html and data.json into FOLDER (default: logs/data/NAME); --json prints the latter and nothing else.

depthlab show_batch --help: a training batch alone, as a picture
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlab.commands.diagnose import progress_bar, split_options
from depthlab.config.program import command_words
from depthlab.errors import InputError
from depthlab.shown_text import as_json

if TYPE_CHECKING:
    from depthlab.config.schema import TrainConfig
    from depthlab.data.batch import Batch
    from depthlab.data.datamodule import ImageDataModule
    from depthlab.data.device_images import Normalization
    from depthlab.report.core.document import Document, Finding
    from depthlab.report.core.table import Table

NUM_IMAGES = 8
PICTURES = (".png", ".webp")
SPLITS = ("train", "val", "test")
EACH = {
    "no crop, no flip": ("data.crop_padding=0", "data.flip=false"),
    "crop, flip": (),
    "color_jitter=0.4": ("augment.color_jitter=0.4",),
    "random_erasing=1": ("augment.random_erasing=1",),
    "mixup=0.4": ("augment.mixup=0.4",),
    "cutmix=1": ("augment.cutmix=1",),
}
SHOW_BATCH = """Save a training batch as a picture: depthlab show_batch [--out FILE] [--each] [--number K] [OVERRIDE]...

The overrides are those of `train`. --each draws a row for each augmentation alone.
results/augmentations.webp: depthlab show_batch --each --out results/augmentations.webp data=cifar10
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; the exit code, 2 on a mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    from depthlab.config.commandline import CONFIGURATION_ERRORS, explain

    try:
        options, overrides = split_options(arguments, ("out",))
        config, data = _read(overrides)
        found, document, folder = _survey(config, data, options.get("out"))
    except (InputError, OSError, *CONFIGURATION_ERRORS) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    if "json" in options:
        print(as_json(found))
    else:
        _print(document, folder / "data.html")
    return 0


def _read(overrides: Sequence[str]) -> tuple[TrainConfig, ImageDataModule]:
    """The configuration with these overrides, and its data."""
    from depthlab.config.check import check
    from depthlab.config.commandline import composed
    from depthlab.config.folder import config_dir
    from depthlab.runs.build import build_data

    config = check(composed(overrides, config_dir()))
    return config, build_data(config)


def _survey(config: TrainConfig, data: ImageDataModule, out: str | None) -> tuple[dict[str, Any], Document, Path]:
    """What was found, as plain data and as a document, and the folder into which both were written."""
    from depthlab.data.image_folders import image_files
    from depthlab.data.overview import picture_sizes, survey
    from depthlab.report.core import style
    from depthlab.report.core.page import to_html

    with progress_bar(SPLITS, config.data.name) as watch:
        found = {"data": config.data.name, **survey(data.arrays, data.classes, watch)}
    if isinstance(name := getattr(config.data, "folder", None), str):
        places = (Path(name).expanduser(), Path(config.paths.data_dir) / name)
        found["files"] = picture_sizes(image_files(next(path for path in places if path.is_dir())))
    folder = Path(out) if out else Path(config.paths.log_dir) / "data" / config.data.name
    document = _describe(found, config, data)
    for figure in document.figures:
        style.save(figure.drawing, folder, figure.name)
    (folder / "data.html").write_text(to_html(document, folder), encoding="utf-8")
    (folder / "data.json").write_text(as_json(found) + "\n", encoding="utf-8")
    return found, document, folder


def _describe(found: dict[str, Any], config: TrainConfig, data: ImageDataModule) -> Document:
    from depthlab.data.overview import draw_images, mean_images
    from depthlab.report.core.document import Document, Section
    from depthlab.report.core.figures import Figure

    means = draw_images(mean_images(data.arrays["train"], data.classes))
    batches = _before_and_after(config, data)
    height, width, channels = found["image_shape"]
    counts = ", ".join(f"{number:,} {split}" for split, number in found["splits"].items())
    figures = (
        Figure("means", "Mean images", "Of the training images of each class, as bytes.", means),
        Figure("batch", "A training batch", "As read, and as the network receives it.", batches),
    )
    sections = (
        Section("Findings", findings=tuple(_findings(found)), in_terminal=True),
        Section("Counts", tables=(_counts(found),)),
        Section("Duplicates", tables=_duplicates(found)),
        *([Section("Files", lines=tuple(_files(found["files"])))] if "files" in found else []),
        Section("Images", figures=figures),
    )
    summary = f"{counts} images of {height} x {width}, {channels} channel(s), split by seed {config.data.split_seed}."
    return Document(f"Data: {found['data']}", "What does a run see?", summary, sections)


def _findings(found: dict[str, Any]) -> list[Finding]:
    from depthlab.report.core.document import Finding

    counts = found["duplicates"]["counts"]
    across = {name: each for name, each in counts.items() if " and " in name and each["count"]}
    within = {name: each for name, each in counts.items() if " and " not in name and each["count"]}
    made = []
    for title, some, tone in (
        ("Duplicates across splits", across, "bad"),
        ("Duplicates within a split", within, "open"),
    ):
        text = "; ".join(f"{n}: {c['count']:,}, {c['conflicts']:,} of another class" for n, c in some.items())
        word = f"{sum(each['count'] for each in some.values()):,}" if some else "none"
        made.append(
            Finding(title, word, f"{text or 'No two images are equal in every byte'}.", tone if some else "good")
        )
    if found["imbalance"] is not None:
        text = "The largest class of the training images over the smallest."
        made.append(
            Finding("Imbalance", f"{found['imbalance']:.2f}", text, "good" if found["imbalance"] < 1.5 else "open")
        )
    return made


def _counts(found: dict[str, Any]) -> Table:
    from depthlab.report.core.table import Table

    if found["targets"]:
        header = ("split", "images", "shape of a target", "mean", "deviation", "smallest", "largest")
        rows = [
            (
                split,
                found["splits"][split],
                " x ".join(map(str, each["shape"])),
                *(each[k] for k in ("mean", "std", "min", "max")),
            )
            for split, each in found["targets"].items()
        ]
        return Table("counts", "Targets are no classes.", header, tuple(rows))
    rows = [(name, *(counts[split] for split in SPLITS)) for name, counts in found["classes"].items()]
    total = ("all", *(found["splits"][split] for split in SPLITS))
    return Table("counts", "Images of each class.", ("class", *SPLITS), (*rows, total))


def _duplicates(found: dict[str, Any]) -> tuple[Table, ...]:
    from depthlab.report.core.table import Table

    counts = [(name, each["count"], each["conflicts"]) for name, each in found["duplicates"]["counts"].items()]
    first = [
        (each["where"], *each["images"], "yes" if each["same_class"] else "no") for each in found["duplicates"]["first"]
    ]
    caption = "Equal in every byte. Of two splits: images of the second that are in the first; within one: repetitions."
    table = Table("duplicates", caption, ("where", "images", "of another class"), tuple(counts))
    header = ("where", "image", "equals image", "same class")
    return table, *(
        [Table("pairs", "The first ones, by their place in the split.", header, tuple(first))] if first else []
    )


def _files(files: dict[str, Any]) -> list[str]:
    sizes = [f"{name}: {low} to {high} pixels, median {mid:g}" for name, (low, mid, high) in files["sizes"].items()]
    return [f"{files['count']:,} files", *sizes, "modes: " + ", ".join(f"{k} {v:,}" for k, v in files["modes"].items())]


def _before_and_after(config: TrainConfig, data: ImageDataModule) -> Any:
    """The first images of a batch as read, as trained on, and their targets where these are images."""
    import torch

    from depthlab.data.augment import OFF
    from depthlab.data.datamodule import ImageDataModule
    from depthlab.data.overview import as_images, draw_rows

    plain = replace(config.data, crop_padding=0, flip=False)
    as_read = ImageDataModule(plain, data.data_dir, data.seed, OFF, data.frozen)
    device = torch.device("cpu")
    rows = [
        (title, each.train_batch(0, device), each.normalization)
        for title, each in (("as read", as_read), ("augmented", data))
    ]
    if rows[0][1].labels.dim() == 4:
        rows.append(("target", *as_images(rows[1][1])))
    return draw_rows(rows, data.classes, min(NUM_IMAGES, len(rows[0][1].labels)))


def _print(document: Document, page: Path) -> None:
    from depthlab.config.console import TextConsole
    from depthlab.report.core.terminal import COLOURS, grid

    console = TextConsole(soft_wrap=True)
    console.print(f"{document.title}: {document.summary}")
    for section in document.sections:
        for finding in section.findings:
            console.print(f"{finding.title}: {finding.word}.", style=COLOURS[finding.tone], end=" ")
            console.print(finding.text)
    console.print(grid(document.tables[0]))
    console.print(f"page: {page}")


def show_batch(arguments: Sequence[str] | None = None) -> int:
    """Write the picture of a batch; the exit code, 2 on a mistake."""
    options = _parse(arguments)
    rows: dict[str, tuple[str, ...]] = EACH if options.each else {"batch": ()}
    from depthlab.config.commandline import CONFIGURATION_ERRORS, explain
    from depthlab.data.overview import draw_rows

    try:
        batches = [(title, *_batch([*options.overrides, *more], options.number)) for title, more in rows.items()]
        picture = draw_rows([row[:3] for row in batches], batches[0][3], NUM_IMAGES)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        picture.save(options.out, optimize=True, lossless=True, method=6)
    except (InputError, OSError, *CONFIGURATION_ERRORS) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    prog, formatter = " ".join(command_words(sys.argv, "show_batch")), argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=SHOW_BATCH, formatter_class=formatter)
    parser.add_argument(
        "--out", type=_picture_file, default=Path("batch.png"), help="the file, .png or .webp (batch.png)"
    )
    parser.add_argument("--each", action="store_true", help="a row for each augmentation")
    parser.add_argument("--number", type=int, default=0, help="of the batch, counted from 0")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    return parser.parse_args(arguments)


def _picture_file(name: str) -> Path:
    """The file of a name that ends in a format which loses nothing."""
    if (file := Path(name)).suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"the name of the file ends in {' or '.join(PICTURES)}")
    return file


def _batch(overrides: list[str], number: int) -> tuple[Batch, Normalization, tuple[str, ...]]:
    """A batch as a run with these overrides receives it, on the CPU."""
    import torch

    data = _read(overrides)[1]
    return data.train_batch(number, torch.device("cpu")), data.normalization, data.classes
