"""How somebody outside follows a run: measures its start, adds callbacks to its trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lightning.pytorch import Callback


class Observer(Protocol):
    """Passed to `perform` and `run`, which call these methods.

    The benchmark measures runs through it. An observer is no part of what a run is: the record says nothing of it.
    """

    def mark(self, part: str) -> None:
        """A part of the start has ended.

        In this order: "command line" before torch is imported, "imports", "data" when the images are read,
        "network" when the network is built.
        """

    def callbacks(self) -> Sequence[Callback]:
        """Lightning callbacks for the trainer, called after those of the run.

        With steps replayed in chunks, `on_train_batch_end` comes once a chunk.
        """
