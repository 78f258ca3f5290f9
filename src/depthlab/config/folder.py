"""Where the configuration files are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from depthlab.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]
PLACES = (PACKAGE / "configs", PACKAGE.parents[1] / "configs")  # of an installed wheel; of a clone


@cache
def config_dir() -> Path:
    """The folder that holds train.yaml.

    Raises:
        InputError: neither the package nor the clone around it has one.
    """
    for folder in PLACES:
        if (folder / "train.yaml").is_file():
            return folder
    raise InputError(f"no configuration files in {' or '.join(map(str, PLACES))}. Install depthlab again.")
