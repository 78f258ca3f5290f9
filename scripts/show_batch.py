"""A training batch as a picture: python scripts/show_batch.py [--out FILE] [--each] [--number K] [OVERRIDE ...]

Overrides are those of train.py. --each adds a row for each augmentation alone, beside the one with the overrides.
results/augmentations.png: python scripts/show_batch.py --each --out results/augmentations.png data=cifar10
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from depthlab.config.check import check
from depthlab.config.commandline import CONFIGURATION_ERRORS, check_names, explain
from depthlab.data.batch import Batch
from depthlab.data.batch_preview import draw_rows
from depthlab.data.device_images import Normalization
from depthlab.errors import InputError

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
NUM_IMAGES = 8
EACH = {
    "no crop, no flip": ("data.crop_padding=0", "data.flip=false"),
    "crop, flip": (),
    "color_jitter=0.4": ("augment.color_jitter=0.4",),
    "random_erasing=1": ("augment.random_erasing=1",),
    "mixup=0.4": ("augment.mixup=0.4",),
    "cutmix=1": ("augment.cutmix=1",),
}


def main() -> int:
    """Write the picture; 2 on a mistake."""
    arguments = _parse()
    rows: dict[str, tuple[str, ...]] = {} if arguments.each else {"batch": ()}
    rows |= EACH if arguments.each else {}
    try:
        check_names(arguments.overrides, CONFIG_DIR)
        batches = [(title, *_batch([*arguments.overrides, *more], arguments.number)) for title, more in rows.items()]
    except (InputError, OSError, *CONFIGURATION_ERRORS) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    picture = draw_rows([row[:3] for row in batches], batches[0][3], NUM_IMAGES)
    picture.save(arguments.out, optimize=True)
    print(arguments.out)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("batch.png"))
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    return parser.parse_args()


def _batch(overrides: list[str], number: int) -> tuple[Batch, Normalization, tuple[str, ...]]:
    """A batch as a run with these overrides receives it, on the CPU."""
    from depthlab.runs.build import build_data

    with initialize_config_dir(config_dir=str(CONFIG_DIR), version_base="1.3"):
        tree = OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)
    data = build_data(check(cast(dict[str, Any], tree)))
    return data.train_batch(number, torch.device("cpu")), data.normalization, data.classes


if __name__ == "__main__":
    sys.exit(main())
