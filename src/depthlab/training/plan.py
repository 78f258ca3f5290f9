"""The plan of a run: its first and last step, and the steps of logging, validation and checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """First and last step, cadences and sizes of a run; a step is one optimiser update.

    Args:
        max_steps: the step at which the run ends.
        val_every_steps: steps between two validations.
        log_every_steps: steps between two points of the training curves.
        batch_size: images in one batch, over all processes.
        images_per_epoch: training images; where an epoch ends with a short batch, that batch counts as whole.
        batches_per_step: batches accumulated to one update.
        first_step: updates done before, where the run is continued.
        save_every_steps: steps between two checkpoints; None for none by steps.
        save_every_seconds: wall time between two checkpoints; None for none by time.
    """

    max_steps: int
    val_every_steps: int
    log_every_steps: int
    batch_size: int
    images_per_epoch: int
    batches_per_step: int = 1
    first_step: int = 0
    save_every_steps: int | None = None
    save_every_seconds: float | None = None

    @property
    def images_per_step(self) -> int:
        """Images in one update."""
        return self.batch_size * self.batches_per_step

    @property
    def epochs_per_step(self) -> float:
        """The part of an epoch that an update takes."""
        return self.images_per_step / self.images_per_epoch

    @property
    def last_epoch_start(self) -> int:
        """The step after which the last epoch of the run begins."""
        return max(0, self.max_steps - math.ceil(self.images_per_epoch / self.images_per_step))

    @property
    def first_batch(self) -> int:
        """The number of the first batch to come."""
        return self.first_step * self.batches_per_step

    @property
    def first_lightning_epoch(self) -> int:
        """The epochs that are over for Lightning, to which one ends where a validation is due."""
        return self.first_step // self.val_every_steps

    @property
    def num_batches(self) -> int:
        """Batches of the whole run."""
        return self.max_steps * self.batches_per_step

    @property
    def batches_per_validation(self) -> int:
        """Batches between two validations."""
        return self.val_every_steps * self.batches_per_step

    def reads_at(self, step: int) -> bool:
        """Whether the training curves have a point at `step`."""
        return step % self.log_every_steps == 0 or step == self.max_steps

    def validates_at(self, step: int) -> bool:
        """Whether a validation follows update number `step`; the last step has one too."""
        return step % self.val_every_steps == 0 or step == self.max_steps

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due at `step`, time aside."""
        by_step = self.save_every_steps is not None and step % self.save_every_steps == 0
        return by_step or step == self.max_steps
