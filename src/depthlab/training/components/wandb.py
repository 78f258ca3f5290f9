"""Weights & Biases."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.errors import InputError
from depthlab.training.spec import LoggerPlace, LoggerSpec

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


@register("logger", "wandb")
@dataclass(frozen=True)
class WeightsAndBiases(LoggerSpec):
    """Weights & Biases, beside TensorBoard; needs the extra `wandb`."""

    options = {"tensorboard": True, "wandb_project": "depthlab"}  # noqa: RUF012 - annotated in the base class

    def build(self, place: LoggerPlace) -> Logger:
        from lightning.pytorch.loggers import WandbLogger

        # The run's name is its identity, so that a continuation goes on in the same place.
        name = place.directory.name
        return WandbLogger(project=place.project, name=name, id=name, save_dir=place.directory, resume="allow")

    def check_installed(self) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise InputError("logger=wandb: wandb is not installed. Type: pip install -e '.[wandb]'")
