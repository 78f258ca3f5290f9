"""Several steps as one Lightning batch: forward, backward and update captured once as a CUDA graph, then replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from depthlab.data.batch import Batch
from depthlab.training.meter import add
from depthlab.training.module import SupervisedModule

WARMUP_STEPS = 3  # on a stream of their own before a capture: libraries choose kernels and get their memory there
OWN_PACKAGE = "depthlab."
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
        "CUDA graphs need a CUDA GPU": accelerator != "gpu",
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
    """Trains block after block without Lightning between the steps.

    The batch, the learning rate and the sums of loss and error lie in tensors that stay where they are; a step
    reads and writes those alone, so that a captured one can be replayed. Nothing waits for the device.

    Args:
        batch_of: makes the training batch of a number.
        max_norm: gradients are scaled down to this norm; None for never.
        capture: False takes the same steps one by one without a graph, on any device.
    """

    def __init__(self, batch_of: Callable[[int], Batch], max_norm: float | None, capture: bool) -> None:
        self.batch_of = batch_of
        self.max_norm = max_norm
        self.capture = capture
        self._take_step: Callable[[], None] | None = None

    def run(self, module: SupervisedModule, numbers: range) -> None:
        """The updates `numbers`, counted from 0 at the start of training."""
        device = module.device
        # Lightning calls this in a context of mixed precision; gradients are made outside of it.
        with torch.autocast(device.type, enabled=False):
            if self._take_step is None:
                self._take_step = self._prepared(module, self.batch_of(numbers[0]))
            for total, so_far in zip(self._totals, module.train_meter.sums(), strict=True):
                total.copy_(so_far)
            factors = self._lr_factors
            rates = _to_device([[module.schedule(number) * factor for factor in factors] for number in numbers], device)
            for number, rate in zip(numbers, rates.unbind(), strict=True):
                for static_rate, fresh_rate in zip(self._rates, rate.unbind(), strict=True):
                    static_rate.copy_(fresh_rate)
                for static, fresh in zip(self._batch_tensors, _tensors(self.batch_of(number)), strict=True):
                    static.copy_(fresh)
                self._take_step()
        module.train_meter.put(self._totals)
        module.step = numbers.stop

    def _prepared(self, module: SupervisedModule, example: Batch) -> Callable[[], None]:
        """A function that takes one step with what lies in the static tensors."""
        optimizer = module.trainer.optimizers[0]
        self._rates = [torch.zeros((), device=module.device) for _ in optimizer.param_groups]
        self._lr_factors = [group.get("lr_factor", 1.0) for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        copies: dict[str, Any] = {
            key: value.clone() for key, value in example._asdict().items() if isinstance(value, Tensor)
        }
        batch = example._replace(**copies)
        self._batch_tensors = _tensors(batch)
        self._totals = [torch.zeros_like(total) for total in module.train_meter.sums()]

        def take_step() -> None:
            optimizer.zero_grad(set_to_none=True)  # a replay writes its gradients where the captured step has put them
            with module.trainer.precision_plugin.forward_context():
                loss, counts = module.loss_and_counts(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.max_norm is not None:
                clip_grad_norm_(module.network.parameters(), self.max_norm)
            optimizer.step()
            add(self._totals, counts)

        return _captured(take_step, module, optimizer) if self.capture else take_step


def _tensors(batch: Batch) -> list[Tensor]:
    return [value for value in batch if isinstance(value, Tensor)]


def _to_device(values: Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """float32 (n, m), sent without waiting for the device: only pinned memory is."""
    tensor = torch.tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _captured(
    take_step: Callable[[], None], module: SupervisedModule, optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """`take_step` as a graph."""
    for group in optimizer.param_groups:
        group.update({"capturable": True} if "capturable" in group else {})
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with _leaving_no_trace(module, optimizer), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable=True.*")  # of the steps before the capture
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP_STEPS):
                take_step()
        torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        take_step()
    return graph.replay


@contextmanager
def _leaving_no_trace(module: SupervisedModule, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put weights, optimiser state and random state back, in place. State that is new becomes zero: where it began."""
    weights = {key: value.clone() for key, value in module.network.state_dict().items()}
    state = {(p, key): value.clone() for p, key, value in _optimizer_tensors(optimizer)}
    random = torch.cuda.get_rng_state(module.device)
    yield
    with torch.no_grad():
        for key, value in module.network.state_dict().items():
            value.copy_(weights[key])
        for p, key, value in _optimizer_tensors(optimizer):
            value.copy_(state.get((p, key), torch.zeros_like(value)))
    torch.cuda.set_rng_state(random, module.device)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, str, Tensor]]:
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                yield parameter, key, value
