"""Base classes for the specs of callbacks and loggers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from depthlab.config.registry import define_group
from depthlab.config.spec import OptionalSpec
from depthlab.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger

    from depthlab.config.schema import TrainConfig


@define_group("callbacks")
@dataclass(frozen=True)
class CallbackSpec(OptionalSpec):
    """A Lightning callback that a run may have: one of Lightning's own, or any other."""

    identity: ClassVar[bool] = True  # False for one that only watches: runs with it and without it are the same

    def build(self) -> Callback:
        """The callback. Its `state_dict`, plain data and tensors, is kept in checkpoints."""
        raise InputError(f"callbacks.{self.registered}: its spec has no method `build`.")

    def conflict(self, config: TrainConfig) -> str | None:
        """Why the callback cannot work in this run, with the remedy; None where it can."""
        return None


class LoggerPlace(NamedTuple):
    """Where a logger writes: the run's directory, the step it goes on from, and the project of the configuration."""

    directory: Path
    first_step: int
    project: str | None


@define_group("logger", reserved=("every_steps", "wandb_project", "csv"))
@dataclass(frozen=True)
class LoggerSpec(OptionalSpec):
    """A Lightning logger beside metrics.csv. `log_metrics` is called with names like "train/loss" and the step."""

    options: ClassVar[dict[str, Any]] = {}  # what else the Hydra option of this name sets in the group `logger`

    @classmethod
    def off_value(cls) -> Any:
        return False

    def build(self, place: LoggerPlace) -> Logger:
        """The logger of a run, in the one process that writes."""
        raise InputError(f"logger.{self.registered}: its spec has no method `build`.")

    def check_installed(self) -> None:
        """Check that the logger's package is installed.

        Raises:
            InputError: says what to install.
        """
