"""Save a training batch as a picture: depthlab show_batch [--out FILE] [--each] [--number K] [OVERRIDE ...]

The overrides are those of `train`. --each draws a row for each augmentation alone.
results/augmentations.png: depthlab show_batch --each --out results/augmentations.png data=cifar10
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depthlab.config.folder import composed_tree, config_dir
from depthlab.config.program import command_words
from depthlab.errors import InputError

if TYPE_CHECKING:
    from depthlab.data.batch import Batch
    from depthlab.data.device_images import Normalization

NUM_IMAGES = 8
EACH = {
    "no crop, no flip": ("data.crop_padding=0", "data.flip=false"),
    "crop, flip": (),
    "color_jitter=0.4": ("augment.color_jitter=0.4",),
    "random_erasing=1": ("augment.random_erasing=1",),
    "mixup=0.4": ("augment.mixup=0.4",),
    "cutmix=1": ("augment.cutmix=1",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture; the exit code, 2 on a mistake."""
    options = _parse(arguments)
    rows: dict[str, tuple[str, ...]] = EACH if options.each else {"batch": ()}
    from depthlab.config.commandline import CONFIGURATION_ERRORS, check_names, explain
    from depthlab.data.batch_preview import draw_rows

    try:
        check_names(options.overrides, config_dir())
        batches = [(title, *_batch([*options.overrides, *more], options.number)) for title, more in rows.items()]
    except (InputError, OSError, *CONFIGURATION_ERRORS) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    picture = draw_rows([row[:3] for row in batches], batches[0][3], NUM_IMAGES)
    picture.save(options.out, optimize=True)
    print(options.out)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    prog, formatter = " ".join(command_words(sys.argv, "show_batch")), argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, default=Path("batch.png"), help="the file (batch.png)")
    parser.add_argument("--each", action="store_true", help="a row for each augmentation")
    parser.add_argument("--number", type=int, default=0, help="of the batch, counted from 0")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    return parser.parse_args(arguments)


def _batch(overrides: list[str], number: int) -> tuple[Batch, Normalization, tuple[str, ...]]:
    """A batch as a run with these overrides receives it, on the CPU."""
    import torch

    from depthlab.config.check import check
    from depthlab.runs.build import build_data

    data = build_data(check(composed_tree(overrides)))
    return data.train_batch(number, torch.device("cpu")), data.normalization, data.classes
