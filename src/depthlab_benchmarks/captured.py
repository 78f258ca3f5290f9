"""Captured steps outside of a run, and a stand-in for CUDA graphs that works on a CPU.

The stand-in has the rules of a capture: what a step does is recorded and undone, and a replay does the same with the
same memory. What Python computed meanwhile is not computed again, and what a graph could not do is refused.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from depthlab.config.schema import TrainConfig
from depthlab.data.datamodule import ImageDataModule
from depthlab.runs.build import build_data, build_module, build_network, build_trainer
from depthlab.training.capture import Capture, Replay, capture_into
from depthlab.training.graph_steps import CAPTURES, GraphStepper
from depthlab.training.module import SupervisedModule

# Operators whose result depends on values that the host would have to wait for.
HOST_READS = {
    *("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::allclose"),
    *("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"),
}
HOST_METHODS = {"tolist", "numpy", "cpu", "item", "__bool__", "__float__", "__int__", "__index__", "__array__"}
HOST_DATA = {"aten::lift_fresh", "aten::lift_fresh_copy"}  # torch.tensor(...): a copy from memory that is not pinned
# What operators write to without saying so: the positions of the running statistics.
WRITES_UNSAID = {"aten::native_batch_norm": (3, 4), "aten::cudnn_batch_norm": (3, 4)}
NUM_KERNELS = 15
GRAPH_NODE = re.compile(r'"graph_\d+_node_\d+"')  # in a graph that is written in DOT
NO_KERNEL = ("aten::empty", "aten::new_empty", "profiler::")  # memory and marks


# What makes steps differ in kind: each must be the same captured and not. Overrides of a small run, by name.
VARIANTS: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "adamw": ("optimizer=adamw",),
    "no decay of norms": ("optimizer.decay_norm_and_bias=false",),
    "clipping": ("trainer.gradient_clip_val=0.1",),
    "mixup": ("augment.mixup=0.2",),
    "cutmix, jitter, erasing": ("augment.cutmix=1", "augment.color_jitter=0.4", "augment.random_erasing=0.5"),
    "dropout": ("model.dropout=0.5",),
    "stochastic depth": ("model.stochastic_depth=0.5",),
    "activation checkpointing": ("model.activation_checkpointing=true",),
    "frozen parts": ("model.freeze=until:layer1", "optimizer.backbone_lr_factor=0.1"),
    "label smoothing, nesterov": ("augment.label_smoothing=0.1", "augment.mixup=0.2", "optimizer.nesterov=true"),
    "bf16": ("trainer.precision=bf16-mixed",),
    "bf16, clipping": ("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.1"),
    "bf16, activation checkpointing": ("trainer.precision=bf16-mixed", "model.activation_checkpointing=true"),
    "bf16, frozen parts": ("trainer.precision=bf16-mixed", "model.freeze=until:layer1"),
    "regression": ("data=noisy_digits", "task=regression", "model=residual_restorer20"),
}


class CannotCapture(RuntimeError):
    """A step does what a CUDA graph cannot hold."""


class _NoHostReads(TorchFunctionMode):
    """Refuses methods that read a tensor's values without an operator that `_Recorder` could see."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in HOST_METHODS:
            raise CannotCapture(f"Tensor.{func.__name__} reads a value while the step is captured")
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """Notes every operator with its arguments and results, and what memory looked like before it was written to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], dict[int, Tensor]]] = []
        self._own: set[int] = set()  # storages made during the recording
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name in HOST_READS or name in HOST_DATA:
            kind = "reads a value" if name in HOST_READS else "makes a tensor of host data"
            raise CannotCapture(f"{name} {kind} while the step is captured")
        for tensor in _written(func, args, kwargs):
            self._keep(tensor)
        known = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **kwargs)
        leaves = enumerate(tree_leaves(out))
        made = {idx: leaf for idx, leaf in leaves if isinstance(leaf, Tensor) and _address(leaf) not in known}
        self._own.update(_address(tensor) for tensor in made.values())
        if made or not func.is_view:
            self.calls.append((func, args, kwargs, {idx: tensor.detach() for idx, tensor in made.items()}))
        return out

    def _keep(self, tensor: Tensor) -> None:
        address = _address(tensor)
        if address not in self._own and address not in self._before:
            storage = tensor.untyped_storage()
            self._before[address] = storage, storage.clone()  # type: ignore[no-untyped-call]  # torch has no types there

    def undo(self) -> None:
        """Give memory from before the recording its old content."""
        for storage, before in self._before.values():
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        """Do it again with the same memory."""
        for func, args, kwargs, made in self.calls:
            results = tree_leaves(func(*args, **kwargs))
            for idx, old in made.items():
                old.copy_(results[idx])


def stand_in(take_step: Callable[[], None], lasting: Callable[[], Sequence[Tensor]]) -> Replay:
    """Capture a step without a GPU.

    Raises:
        CannotCapture: the step reads values, takes data from the host, or makes a tensor that must outlive it.
    """
    before = {_address(tensor) for tensor in lasting()}
    recorder = _Recorder()
    try:
        with _NoHostReads(), recorder:
            take_step()
    finally:
        recorder.undo()
    if {_address(tensor) for tensor in lasting()} != before:
        raise CannotCapture("the step makes a tensor of the network's or the optimiser's state while it is captured")
    return recorder.replay


class OperatorCount(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """Counts operators by name. Views, bare allocations and profiler marks start no kernel and are left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if not func.is_view and not name.startswith(NO_KERNEL):
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


class Bench:
    """The network, data and stepper of a configuration on its device, without a run around them.

    Args:
        config: checked and resolved.
        capture: captures the step; None for ordinary steps in chunks.
        data: its images, where they have been read.
    """

    def __init__(self, config: TrainConfig, capture: Capture | None, data: ImageDataModule | None = None) -> None:
        self.config = config
        trainer = config.trainer
        self.device = torch.device({"gpu": "cuda"}.get(trainer.accelerator, trainer.accelerator))
        self.data = data or build_data(config)
        network = build_network(config, self.data.image_spec, self.data.num_outputs, self.data.normalization)
        self.module: SupervisedModule = build_module(config, network, self.data.num_outputs)
        self.module.to(self.device).train()
        self.trainer = build_trainer(trainer, None, [], [], clips=False)
        self.optimizer = self.module.build_optimizer(network, captured=True)
        self.trainer.optimizers = [self.optimizer]
        self.module.trainer = self.trainer
        self.said: list[str] = []
        self.stepper = GraphStepper(
            self.data, trainer.steps_per_replay, trainer.gradient_clip_val, capture, self.said.append
        )

    def take(self, num_steps: int) -> None:
        """The next steps, in chunks of at most `trainer.steps_per_replay`."""
        step, last = self.module.step, self.module.step + num_steps
        while step < last:
            numbers = range(step, min(last, step + self.stepper.longest))
            self.stepper.run(self.module, numbers)
            step = numbers.stop

    def state(self) -> dict[str, Tensor]:
        """Weights, buffers, the optimiser's state and the meter's sums by name, on the CPU."""
        found = {f"network.{name}": value for name, value in self.module.network.state_dict().items()}
        names: dict[Tensor, str] = {weight: name for name, weight in self.module.network.named_parameters()}
        for parameter, values in self.optimizer.state.items():
            tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
            found |= {f"optimizer.{names[parameter]}.{key}": value for key, value in tensors.items()}
        found |= {f"meter.{idx}": value for idx, value in enumerate(self.module.train_meter.sums())}
        return {name: value.detach().cpu().clone() for name, value in found.items()}


def configured(compose: Callable[[Sequence[str]], TrainConfig], overrides: Sequence[str]) -> TrainConfig:
    """The configuration of a variant. Random weights may be frozen here, which a run refuses."""
    freeze = [word.partition("=")[2] for word in overrides if word.startswith("model.freeze=")]
    config = compose([word for word in overrides if not word.startswith("model.freeze=")])
    for part in freeze:
        config.model = replace(config.model, freeze=part)
    return config


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The names under which two states are not equal bit for bit."""
    names = dict.fromkeys([*one, *other])
    return [name for name in names if name not in one or name not in other or not torch.equal(one[name], other[name])]


def counted_graph(take_step: Callable[[], None]) -> tuple[Replay, int | None]:
    """A step as a CUDA graph, and its number of nodes; None where torch cannot write the graph down."""
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    capture_into(graph, take_step)
    graph.instantiate()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.dot"
            graph.debug_dump(str(path))
            number = len({*GRAPH_NODE.findall(path.read_text(encoding="utf-8", errors="replace"))})
    except (RuntimeError, OSError):
        number = 0
    return graph.replay, number or None


def longest_kernels(replay: Replay) -> list[dict[str, Any]]:
    """The kernels of one replay that take longest together, by name, in microseconds."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as measured:
        replay()
        torch.cuda.synchronize()
    rows = [(float(each.self_device_time_total), each.key, int(each.count)) for each in measured.key_averages()]
    longest = sorted(rows, reverse=True)[:NUM_KERNELS]
    return [{"us": us, "kernel": name[:120], "count": count} for us, name, count in longest if us > 0]


@contextmanager
def graphs_on_cpu() -> Iterator[None]:
    """Runs on the CPU capture their steps with the stand-in until the block ends."""
    CAPTURES["cpu"] = stand_in
    try:
        yield
    finally:
        del CAPTURES["cpu"]


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that an operator changes."""
    schema = func._schema
    for idx, argument in enumerate(schema.arguments):
        value = kwargs.get(argument.name) if argument.name in kwargs else args[idx] if idx < len(args) else None
        says = argument.alias_info is not None and argument.alias_info.is_write
        if says or idx in WRITES_UNSAID.get(schema.name, ()):
            yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
