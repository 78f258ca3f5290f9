"""Lightning's own counters of steps and epochs, which stock callbacks and loggers read; nothing of ours reads them."""

from __future__ import annotations

from lightning.pytorch import Trainer


def set_global_step(trainer: Trainer, step: int) -> None:
    """Set `trainer.global_step`."""
    loop = trainer.fit_loop.epoch_loop
    updates = loop.automatic_optimization.optim_progress.optimizer.step
    for progress in (updates, loop.manual_optimization.optim_step_progress):  # the second one where steps are in chunks
        progress.total.ready = progress.total.completed = step


def set_current_epoch(trainer: Trainer, epoch: int) -> None:
    """Have `trainer.current_epoch` say that so many of Lightning's epochs are over."""
    progress = trainer.fit_loop.epoch_progress.current
    for name in ("ready", "started", "processed", "completed"):
        setattr(progress, name, epoch)


def set_logged_step(trainer: Trainer, step: int) -> None:
    """Have what callbacks log from now on belong to update number `step`, counted from 1 as in all curves.

    Lightning counts from 0 and adds one itself when a batch with an update is over.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = step
