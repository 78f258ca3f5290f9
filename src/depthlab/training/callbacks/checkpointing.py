"""The callback that writes checkpoints, and stops the run after one when it is asked to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from depthlab.records.checkpoints import state_sha256
from depthlab.training.endings import Interrupted
from depthlab.training.module import SupervisedModule
from depthlab.training.plan import Plan

Save = Callable[[Trainer, SupervisedModule], None]
# Slurm sends SIGUSR1 ahead of a time limit when it is asked to (--signal), and SIGTERM before it preempts.
# submitit has it send SIGUSR2 in both cases, and queues the job again when that arrives.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Remembers that a signal asked the run to stop. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.is_made = False
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the stop signals over from their handlers until the block ends; submitit's is told of its own then."""
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            if self._number == signal.SIGUSR2 and _is_foreign(self._before[signal.SIGUSR2]):
                signal.raise_signal(signal.SIGUSR2)

    def _note(self, number: int, frame: FrameType | None) -> None:
        before = self._before.get(number)
        if self.is_made and number == signal.SIGINT:
            if callable(before):
                before(number, frame)
            raise KeyboardInterrupt
        self.is_made, self._number = True, number


def _is_foreign(handler: Any) -> bool:
    return callable(handler) and not str(getattr(handler, "__module__", "")).startswith("depthlab.")


class Checkpoints(Callback):
    """Writes a checkpoint every so many steps, every so many minutes, at the end, and before stopping early.

    Where a validation is due at the same step, the checkpoint waits for it, so that whatever was measured up to
    a checkpoint's step lies in the curves before the checkpoint does.

    Args:
        save: writes one.
        plan: where validations and checkpoints fall, and the end. Several processes compare clocks and stop requests
            where the training curves have points.
        stop: asks the run to stop.
    """

    def __init__(self, save: Save, plan: Plan, stop: StopRequest) -> None:
        self.save = save
        self.plan = plan
        self.stop = stop
        self._seen_step = -1
        self._saved_at = 0.0
        self._final_weights: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing new to save yet."""
        assert isinstance(pl_module, SupervisedModule)
        self._seen_step = pl_module.step
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write one here unless a validation comes first."""
        assert isinstance(pl_module, SupervisedModule)
        step = pl_module.step
        is_new = step != self._seen_step  # not so between the batches that are accumulated to one update
        self._seen_step = step
        if is_new and not self.plan.validates_at(step) and not trainer.should_stop:
            self._save_if_due(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The validation is done: write the one that waited for it, and end the run at its last step.

        Where another callback ends the run earlier, its last step has a checkpoint too.
        """
        assert isinstance(pl_module, SupervisedModule)
        self._save_if_due(trainer, pl_module)
        if pl_module.step >= self.plan.max_steps:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save again if a callback changed the weights at the end: the test measures what the checkpoint holds.

        If the run was asked to stop after its last step, the test is left to the next start.
        """
        assert isinstance(pl_module, SupervisedModule)
        if self._is_agreed(trainer, state_sha256(pl_module.network.state_dict()) != self._final_weights):
            self.save(trainer, pl_module)
        if self._is_agreed(trainer, self.stop.is_made):
            raise Interrupted

    def _save_if_due(self, trainer: Trainer, module: SupervisedModule) -> None:
        step = module.step
        must_stop, late = self._agreed(trainer, step)
        ends = trainer.should_stop or step == self.plan.max_steps
        if self.plan.saves_at(step) or late or must_stop or ends:
            self.save(trainer, module)
            self._saved_at = time.monotonic()
        if ends:
            self._final_weights = state_sha256(module.network.state_dict())
        if must_stop and not ends:
            raise Interrupted

    def _agreed(self, trainer: Trainer, step: int) -> tuple[bool, bool]:
        """Whether any process was asked to stop, and whether any finds a checkpoint overdue."""
        seconds = self.plan.save_every_seconds
        late = seconds is not None and time.monotonic() - self._saved_at >= seconds
        if trainer.world_size > 1 and step % self.plan.log_every_steps:
            return False, False
        return self._is_agreed(trainer, self.stop.is_made), self._is_agreed(trainer, late)

    def _is_agreed(self, trainer: Trainer, mine: bool) -> bool:
        """Whether it holds in any process."""
        return mine if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(mine, all=False)
