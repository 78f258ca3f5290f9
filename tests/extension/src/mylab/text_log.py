"""A logger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.training.spec import LoggerPlace, LoggerSpec

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


@register("logger", "text_log")
@dataclass(frozen=True)
class TextLog(LoggerSpec):
    """One line a value, in a file of the run's directory."""

    filename: str = key("values.txt", identity=False, help="the file's name")

    def build(self, place: LoggerPlace) -> Logger:
        from mylab.text_logger import TextLogger

        return TextLogger(place.directory / self.filename)
