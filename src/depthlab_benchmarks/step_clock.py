"""A Lightning callback that counts steps, and measures how much of a step is the network."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim import Optimizer

from depthlab.training.module import SupervisedModule
from depthlab_benchmarks.clock import Clock
from depthlab_benchmarks.side_settings import describe_side


class StepClock(Callback):
    """Counts updates on a clock. The time between the steps of a turn is the run's own, this callback's excepted.

    Forward, backward and update are the part "network". Of steps that are replayed in chunks nothing can be told
    apart: Lightning's hooks do not see their updates.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._step = 0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Find the device; measure forward and update, for which Lightning has no pair of hooks."""
        assert isinstance(module, SupervisedModule)
        clock, optimizer = self.clock, trainer.optimizers[0]
        clock.set_device(module.device.type == "cuda")
        clock.settings = describe_side(module.network, optimizer, str(trainer.precision), module.device)
        if module.automatic_optimization:
            module.train_forward = clock.spans.timed("network", module.train_forward)
            optimizer.register_step_post_hook(lambda *_: clock.spans.end("network"))

    def on_before_backward(self, trainer: Trainer, module: Any, loss: Tensor) -> None:
        """The backward pass begins."""
        self.clock.note_loss(loss)
        self.clock.spans.begin("network")

    def on_after_backward(self, trainer: Trainer, module: Any) -> None:
        """It has ended."""
        self.clock.spans.end("network")

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Optimizer) -> None:
        """The update begins."""
        self.clock.spans.begin("network")

    def on_train_batch_end(self, trainer: Trainer, module: Any, *rest: Any) -> None:
        """Count the updates since the last call: one, or those of a chunk."""
        if module.step > self._step:
            done, self._step = module.step - self._step, module.step
            self.clock.steps_done(done)
