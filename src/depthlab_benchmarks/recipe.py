"""The recipe that both sides of a comparison follow: one composed configuration whose data are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from depthlab.errors import InputError

if TYPE_CHECKING:
    from depthlab.config.schema import TrainConfig

TRAIN = (sys.executable, "-m", "depthlab", "train")
# torchvision's Normalize knows channels, and its users train on all 50,000 images.
COMMON = ("data.normalization=per_channel", "data.val_size=0", "schedule=he2015")
FOLDERS = {"cifar10": "cifar-10-batches-py", "mnist": "MNIST/raw"}


def compose(overrides: list[str]) -> dict[str, Any]:
    """The configuration that `depthlab train` composes from `overrides`, resolved.

    Raises:
        InputError: the overrides are refused, or the data are not there.
    """
    command = [*TRAIN, "--cfg", "job", "--resolve", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(done.stderr.strip().removeprefix("error: "))
    tree: dict[str, Any] = yaml.safe_load(done.stdout)
    _check_data(tree)
    return tree


def _check_data(tree: dict[str, Any]) -> None:
    name, folder = tree["data"]["name"], Path(tree["paths"]["data_dir"]).absolute()
    if name in FOLDERS and not (folder / FOLDERS[name]).is_dir():
        raise InputError(
            f"{name} is not in {folder}: set DEPTHLAB_DATA_DIR to the folder that holds {FOLDERS[name]}, "
            "or measure on the digits inside scikit-learn with --data digits."
        )


def write_config(tree: dict[str, Any], folder: Path) -> Path:
    """The configuration as a file for a side that composes nothing."""
    path = folder / f"{tree['model']['name']}.json"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def read_config(path: str) -> TrainConfig:
    """The configuration in such a file, checked and resolved for this machine."""
    from depthlab.config.check import check
    from depthlab.config.hardware import probe, resolve

    config = check(json.loads(Path(path).read_text(encoding="utf-8")))
    config.trainer = resolve(config.trainer, probe())
    return config


def torch_device(config: TrainConfig) -> Any:
    """The device of a resolved configuration."""
    import torch

    return torch.device({"gpu": "cuda", "mps": "mps"}.get(config.trainer.accelerator, "cpu"))
