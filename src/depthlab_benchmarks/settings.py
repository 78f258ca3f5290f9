"""The settings of a benchmark, as its command line gives them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthlab_benchmarks.recipe import COMMON, compose, write_config
from depthlab_benchmarks.sides import Side

# What the plain loop can take over from this project, by the name on the command line and in tables.
FACTORS = {"bf16": "bf16", "channels_last": "channels last", "batches": "our batches", "compiled": "compiled"}


@dataclass(frozen=True)
class Settings:
    """One call of the benchmark.

    Args:
        folder: an empty one, for configurations and the runs' logs.
        models: networks by name.
        data: the data set by name.
        steps: in a turn.
        turns: of each side after each start.
        starts: fresh processes of each side.
        num_workers: of the baseline's DataLoader.
        accelerator: as `trainer.accelerator`.
        overrides: added to the recipe of every side.
        variants: further sides of ours, with overrides of their own.
        factors: further sides of the plain loop, each with one thing that ours does otherwise.
        jobs: jobs at a time, each a side of mode sweep.
        warmup_steps: of each side before its first turn.
    """

    folder: Path
    models: tuple[str, ...]
    data: str
    steps: int
    turns: int
    starts: int
    num_workers: int
    accelerator: str
    overrides: tuple[str, ...] = ()
    variants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    factors: tuple[str, ...] = ()
    jobs: tuple[int, ...] = (1, 2)
    warmup_steps: int = 5

    def recipe(self, model: str) -> list[str]:
        """The overrides that every side of a comparison shares."""
        place = f"trainer.accelerator={self.accelerator}"
        return [f"model={model}", f"data={self.data}", place, *COMMON, *self.overrides]

    def composed(self, model: str) -> tuple[Path, dict[str, Any]]:
        """The shared recipe as a file, and as plain data.

        Raises:
            InputError: the recipe is refused, or its data are not there.
        """
        tree = compose(self.recipe(model))
        return write_config(tree, self.folder), tree

    def ours(self, model: str, *overrides: str) -> Side:
        """The real command, with a log folder of its own."""
        logs = f"paths.log_dir={tempfile.mkdtemp(prefix='logs-', dir=self.folder)}"
        typed = [*self.recipe(model), *overrides, logs]
        return Side("depthlab_benchmarks.ours", typed)
