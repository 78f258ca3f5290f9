"""TensorBoard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.training.spec import LoggerPlace, LoggerSpec

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


@register("logger", "tensorboard")
@dataclass(frozen=True)
class TensorBoard(LoggerSpec):
    """Event files in the run's directory, with the pictures and histograms of the dashboards."""

    def build(self, place: LoggerPlace) -> Logger:
        from depthlab.training.loggers import open_event_file

        return open_event_file(place.directory, place.first_step)
