"""A training step captured as a CUDA graph, and what is left out of it because it need not be done at every step."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

WARMUP_STEPS = 3  # on a stream of their own before a capture: libraries choose kernels and get their memory there
Replay = Callable[[], None]
# What captures a step. It is told which tensors must outlive the step: weights, buffers, the optimiser's state.
Capture = Callable[[Callable[[], None], Callable[[], Sequence[Tensor]]], Replay]


def cuda_graph(take_step: Callable[[], None], lasting: Callable[[], Sequence[Tensor]]) -> Replay:
    """`take_step` as a CUDA graph; its kernels do not run now."""
    graph = torch.cuda.CUDAGraph()
    capture_into(graph, take_step)
    return graph.replay


def capture_into(graph: torch.cuda.CUDAGraph, take_step: Callable[[], None]) -> None:
    """Capture `take_step` into `graph`; where that fails, torch is left as it was before."""
    gc.collect()  # an older graph that was collected meanwhile would be destroyed in the middle of the capture
    stream, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.graph(graph, pool=pool):
            take_step()
    except BaseException:
        # torch 2.11 leaves an invalid capture before it gives back the stream, and before its allocator knows that the
        # capture has ended: emptying the cache, which Lightning does at the end of a fit, would be an internal error.
        torch.cuda.set_stream(stream)
        with suppress(AttributeError, RuntimeError):  # the latter where it knows
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
        raise


def warm_up(take_step: Callable[[], None], device: torch.device) -> None:
    """Take a few steps as ordinary ones, so that nothing is chosen, compiled or set up in the captured step.

    Raises:
        RuntimeError: the last of them waits for the device. In a capture that would be an error too, and a capture
            that fails leaves torch in a worse state.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable=True.*")  # of the steps before the capture
        if device.type != "cuda":
            for _ in range(WARMUP_STEPS):
                take_step()
            return
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types there
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP_STEPS - 1):
                take_step()
            with _waiting_is_an_error():
                take_step()
        torch.cuda.current_stream().wait_stream(side)


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def leaving_no_trace(network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Iterator[None]:
    """Put weights, optimiser state and random state back, in place. State that is new becomes zero: where it began."""
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    state = {(p, key): value.clone() for p, key, value in _optimizer_tensors(optimizer)}
    on_gpu = device.type == "cuda"
    random = torch.cuda.get_rng_state(device) if on_gpu else torch.get_rng_state()
    try:
        yield
    finally:
        with torch.no_grad():
            for key, value in network.state_dict().items():
                value.copy_(weights[key])
            for p, key, value in _optimizer_tensors(optimizer):
                value.copy_(state.get((p, key), torch.zeros_like(value)))
        if on_gpu:
            torch.cuda.set_rng_state(random, device)
        else:
            torch.set_rng_state(random)


def lasting_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What a captured step may change but not make: weights, buffers and the optimiser's state."""
    return [*network.parameters(), *network.buffers(), *(value for _, _, value in _optimizer_tensors(optimizer))]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, str, Tensor]]:
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                yield parameter, key, value


def modules_used_once(network: nn.Module, forward: Callable[[], object]) -> set[nn.Module]:
    """The modules that a forward pass calls exactly once."""
    calls: dict[nn.Module, int] = {}

    def count(module: nn.Module, *_: Any) -> None:
        calls[module] = calls.get(module, 0) + 1

    hooks = [module.register_forward_pre_hook(count) for module in network.modules()]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return {module for module, number in calls.items() if number == 1}


class Shadow(NamedTuple):
    """A weight in low precision: `owner` has it under `name` while a step computes."""

    owner: nn.Module
    name: str
    weight: nn.Parameter
    low: nn.Parameter
    grad: Tensor


class LeanStep:
    """Does together what a step would do tensor by tensor, with the same results to the bit.

    Under autocast every convolution casts its weight, and its weight's gradient is cast back: two small kernels a
    layer. Here all weights are copied at once into tensors of the lower precision, which take their place in forward
    and backward. Batch norm counts its batches, which only a checkpoint reads, once a chunk. Both are left as they
    are in modules that a forward pass calls several times.

    Args:
        network: in training mode.
        used_once: modules that a forward pass calls once.
        low_precision: what autocast casts weights to; None for full precision.
    """

    def __init__(self, network: nn.Module, used_once: set[nn.Module], low_precision: torch.dtype | None) -> None:
        modules = [module for module in network.modules() if module in used_once]
        self._shadows = [] if low_precision is None else [*_shadows(network, modules, low_precision)]
        # A momentum of None averages over all batches, and reads the number in each step.
        self._norms = [
            module
            for module in modules
            if isinstance(module, _BatchNorm)
            and module.training
            and module.momentum is not None
            and module.num_batches_tracked is not None
        ]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around forward and backward of one step."""
        counters = self._counters()
        if self._shadows:
            with torch.no_grad():
                torch._foreach_copy_([each.low for each in self._shadows], [each.weight for each in self._shadows])
        for shadow in self._shadows:
            shadow.low.grad = None
            shadow.owner._parameters[shadow.name] = shadow.low
        for norm in self._norms:
            norm.num_batches_tracked = None
        try:
            yield
        finally:
            for norm, counter in zip(self._norms, counters, strict=True):
                norm.num_batches_tracked = counter
            for shadow in self._shadows:
                shadow.owner._parameters[shadow.name] = shadow.weight
        self._cast_gradients()

    def _cast_gradients(self) -> None:
        trained = [(shadow, shadow.low.grad) for shadow in self._shadows if shadow.low.grad is not None]
        if trained:
            torch._foreach_copy_([shadow.grad for shadow, _ in trained], [low for _, low in trained])
        for shadow, _ in trained:
            shadow.weight.grad = shadow.grad

    def count_batches(self, number: int) -> None:
        """Batch norm's counters, after a chunk of so many steps."""
        if self._norms:
            torch._foreach_add_(self._counters(), number)

    def _counters(self) -> list[Tensor]:
        return [norm.num_batches_tracked for norm in self._norms if norm.num_batches_tracked is not None]


def _shadows(network: nn.Module, modules: Sequence[nn.Module], dtype: torch.dtype) -> Iterator[Shadow]:
    """Of the layers whose weights autocast casts, shared weights excepted."""
    owners: dict[nn.Parameter, int] = {}
    for module in network.modules():
        for weight in module.parameters(recurse=False):
            owners[weight] = owners.get(weight, 0) + 1
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.Linear):
            for name, weight in module.named_parameters(recurse=False):
                if owners[weight] == 1 and weight.dtype == torch.float32:
                    low = nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad)
                    yield Shadow(module, name, weight, low, torch.zeros_like(weight))
