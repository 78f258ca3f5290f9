"""Several steps as one Lightning batch: the whole step captured once as a CUDA graph, then replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from lightning.pytorch import Callback
from torch.nn.utils import clip_grad_norm_

from depthlab.data.datamodule import ImageDataModule
from depthlab.training.capture import (
    WARMUP_STEPS,
    Capture,
    LeanStep,
    Replay,
    cuda_graph,
    lasting_tensors,
    leaving_no_trace,
    modules_used_once,
    warm_up,
)
from depthlab.training.chunk_inputs import ChunkInputs, inputs_of
from depthlab.training.meter import add
from depthlab.training.module import SupervisedModule

OWN_PACKAGE = "depthlab."
CAPTURES: dict[str, Capture] = {"gpu": cuda_graph}  # what captures a step, by accelerator
# What Lightning calls between or inside the updates of a block, where it is not at hand.
STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


@dataclass(frozen=True)
class StepChunks:
    """Where blocks of steps end: at every step at which a run reads, validates, saves or stops.

    Args:
        longest: steps in a block, at most.
        every: each multiple of these ends a block.
        at: and so does each of these steps.
    """

    longest: int
    every: tuple[int, ...]
    at: tuple[int, ...]

    def end(self, step: int) -> int:
        """The last step of the block that begins after `step` updates."""
        ends = [step + self.longest, *(step - step % span + span for span in self.every)]
        return min(*ends, *(end for end in self.at if end > step))


def why_not_capturable(
    accelerator: str,
    precision: str,
    strategy: str,
    accumulate_grad_batches: int,
    clips_by_value: bool,
    last_batch: str,
    detect_anomaly: bool,
    callbacks: Iterable[Callback],
) -> str | None:
    """Why this run's steps cannot be captured, as the end of a sentence; None where they can."""
    reasons = {
        "CUDA graphs need a CUDA GPU": accelerator not in CAPTURES,
        "fp16's loss scale is read after every step": precision == "16-mixed",
        "several processes exchange gradients in every step": strategy != "auto",
        "gradients are accumulated over batches": accumulate_grad_batches > 1,
        "gradients are clipped by value": clips_by_value,
        "data.last_batch=short makes batches of two sizes": last_batch == "short",
        "trainer.detect_anomaly looks at every step": detect_anomaly,
    }
    for callback in callbacks:
        reasons[f"the callback {type(callback).__name__} acts at every step"] = _needs_each_step(callback)
    return next((reason for reason, holds in reasons.items() if holds), None)


def _needs_each_step(callback: Callback) -> bool:
    """Our own callbacks act where chunks end, unless they say otherwise; of others only their hooks are known."""
    kind = type(callback)
    if kind.__module__.startswith(OWN_PACKAGE):
        return bool(getattr(callback, "acts_each_step", False))
    return any(getattr(kind, hook) is not getattr(Callback, hook) for hook in STEP_HOOKS)


class GraphStepper:
    """Trains chunk after chunk without Lightning between the steps.

    Draws, learning rates, weights and the sums of loss and error lie in tensors that stay where they are. A step
    makes its batch, computes, updates and counts with those alone, so that a captured one can be replayed: a chunk of
    K steps is one copy to the device, K replays, and one reading of the sums. Nothing waits for the device.

    Args:
        data: the training batches.
        longest: steps in a chunk, at most.
        max_norm: gradients are scaled down to this norm; None for never.
        capture: captures a step; None takes the same steps one by one, on any device.
        say: is told why, where a step could not be captured. The chunks then go on without a graph.
    """

    def __init__(
        self,
        data: ImageDataModule,
        longest: int,
        max_norm: float | None,
        capture: Capture | None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.data = data
        self.longest = longest
        self.max_norm = max_norm
        self.capture = capture
        self.say = say
        self._lean: LeanStep | None = None
        self._replay: Replay | None = None

    def run(self, module: SupervisedModule, numbers: range) -> None:
        """The updates `numbers`, counted from 0 at the start of training."""
        # Lightning calls this in a context of mixed precision; gradients are made outside of it. What autocast caches
        # is dropped where the outermost context ends, after the chunk: later steps would compute with old weights.
        with torch.autocast(module.device.type, enabled=False, cache_enabled=False):
            if self._replay is None:
                self._replay = self._prepared(module, numbers)
            torch._foreach_copy_(self._totals, module.train_meter.sums())
            for _ in self._inputs.steps(numbers, self._rates_of(module, numbers)):
                self._replay()
            if self._lean is not None:
                self._lean.count_batches(len(numbers))
        module.train_meter.put(self._totals)
        module.step = numbers.stop

    def _rates_of(self, module: SupervisedModule, numbers: range) -> list[list[float]]:
        return [[module.schedule(number) * factor for factor in self._lr_factors] for number in numbers]

    def _prepared(self, module: SupervisedModule, numbers: range) -> Replay:
        """A function that takes one step with what lies in the static tensors."""
        optimizer, device = module.trainer.optimizers[0], module.device
        self._rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self._lr_factors = [group.get("lr_factor", 1.0) for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        self._totals = [torch.zeros_like(total) for total in module.train_meter.sums()]
        self._inputs: ChunkInputs = inputs_of(self.data, len(self._rates), max(self.longest, WARMUP_STEPS + 1), device)

        def take_step() -> None:
            self._take_step(module, optimizer)

        return take_step if self.capture is None else self._captured(take_step, self.capture, module, numbers)

    def _take_step(self, module: SupervisedModule, optimizer: torch.optim.Optimizer) -> None:
        batch, rates = self._inputs.read()
        torch._foreach_copy_(self._rates, list(rates.unbind()))
        optimizer.zero_grad(set_to_none=True)  # a replay writes its gradients where the captured step has put them
        with nullcontext() if self._lean is None else self._lean.computing():
            with module.trainer.precision_plugin.forward_context():
                loss, counts = module.loss_and_counts(batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types there
        if self.max_norm is not None:
            clip_grad_norm_(module.network.parameters(), self.max_norm)
        optimizer.step()
        add(self._totals, counts)

    def _captured(self, take_step: Replay, capture: Capture, module: SupervisedModule, numbers: range) -> Replay:
        """The step as a graph; as it is where that fails, after weights and optimiser were put back."""
        optimizer, network = module.trainer.optimizers[0], module.network
        for group in optimizer.param_groups:
            group.update({"capturable": True} if "capturable" in group else {})
        first = range(numbers.start, numbers.start + 1)
        try:
            with leaving_no_trace(network, optimizer, module.device):
                self._lean = self._lean_step(module, first)
                for _ in self._inputs.steps(first, self._rates_of(module, first)):
                    # The other steps read rows that are zeros, which do for a trial.
                    warm_up(take_step, module.device)
            return capture(take_step, lambda: [*lasting_tensors(network, optimizer), *self._rates, *self._totals])
        except Exception as error:
            if _came_of(error, torch.OutOfMemoryError):
                raise  # ordinary steps would not fit either
            optimizer.zero_grad(set_to_none=True)
            self.say(f"the step could not be captured ({_first_line(error)}). Steps are taken one by one, slower.")
            self._lean = None
            return take_step

    def _lean_step(self, module: SupervisedModule, numbers: range) -> LeanStep:
        """What of the step can be done together, in this network."""

        def forward() -> None:
            with module.trainer.precision_plugin.forward_context():
                module.network(self._inputs.read()[0].images)

        for _ in self._inputs.steps(numbers, self._rates_of(module, numbers)):
            used_once = modules_used_once(module.network, forward)
        low = torch.bfloat16 if str(module.trainer.precision) == "bf16-mixed" else None
        return LeanStep(module.network, used_once, low)


def _came_of(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error is of a kind, or was raised while one of that kind was handled: a failed capture has its own."""
    while error is not None and not isinstance(error, kind):
        error = error.__context__
    return error is not None


def _first_line(error: BaseException) -> str:
    if "capture" in str(error) and error.__context__ is not None:
        error = error.__context__  # ending a capture that has failed raises an error of its own
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
