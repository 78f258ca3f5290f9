"""The project's side: the real command with Hydra, Lightning, loggers and callbacks, observed by a clock.

python -m depthlab_benchmarks.ours DESCRIPTOR OVERRIDE...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from depthlab.commands.train import train
from depthlab_benchmarks.clock import Clock

if TYPE_CHECKING:
    from lightning.pytorch import Callback


class ClockObserver:
    """Marks the parts of a start on a clock, and counts the steps of the training on it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def mark(self, part: str) -> None:
        """A part has ended. The imports of torch and Lightning are made here, each under a mark of its own."""
        self.clock.mark(part)
        if part != "command line":
            return
        import torch  # noqa: F401

        self.clock.mark("torch")
        import lightning.pytorch  # noqa: F401

        self.clock.mark("Lightning")

    def callbacks(self) -> Sequence[Callback]:
        """The callback that counts."""
        from depthlab_benchmarks.step_clock import StepClock  # imports Lightning, which start-up measures

        return [StepClock(self.clock)]


def main() -> None:
    """Run the command; the clock ends the process."""
    observer = ClockObserver(Clock(int(sys.argv[1])))
    sys.exit(train(sys.argv[2:], observer))


if __name__ == "__main__":
    main()
