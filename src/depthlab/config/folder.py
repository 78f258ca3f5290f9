"""Where the configuration files are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

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


def composed_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration that the files and these overrides give, as plain data, without a command line."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        tree = OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)
    return cast(dict[str, Any], tree)
