"""The gradient's norm per layer, at initialisation and through training, without a trace in the training itself."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from depthlab.data.datamodule import ImageDataModule
from depthlab.errors import InputError
from depthlab.models.counter_rng import as_in_training
from depthlab.records.arrays import arrays_path, load_arrays, write_arrays
from depthlab.training.module import SupervisedModule
from depthlab.training.plan import Plan

# On a CPU a probe in float32 costs a little more than half a step of ResNet-20: one in 200 steps is 0.3 % of a run.
PROBE_IMAGES = 32
STEPS_PER_PROBE = 200
MOST_PROBES = 32


class Layer(NamedTuple):
    """A 3x3 convolution and the batch norm after it; `name` is the convolution's."""

    name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d


def layers_3x3(network: nn.Module) -> list[Layer]:
    """The 3x3 convolutions that a batch norm follows, in forward order (that of their registration)."""
    found = []
    last: tuple[str, nn.Conv2d] | None = None
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            last = (name, module) if module.kernel_size == (3, 3) else None
        elif isinstance(module, nn.BatchNorm2d):
            # In a pre-activation or dense block the norm of the next one follows, which takes a sum or more channels.
            if last and name.rpartition(".")[0] == last[0].rpartition(".")[0]:
                found.append(Layer(*last, module))
            last = None
    return found


def probed_layers(network: nn.Module) -> list[str]:
    """The layers whose gradients are measured, by name: all 3x3 convolutions, or linear ones where there are none."""
    modules = dict(network.named_modules())
    convolutions = {name: module for name, module in modules.items() if isinstance(module, nn.Conv2d)}
    names = [name for name, module in convolutions.items() if module.kernel_size == (3, 3)]
    return names or [name for name, module in modules.items() if isinstance(module, nn.Linear)]


def probe_steps(max_steps: int, val_every_steps: int) -> frozenset[int]:
    """The validation boundaries at which gradients are measured: the last, and those nearest to a geometric series.

    Gradients change most at the beginning.
    """
    boundaries = np.array([*range(val_every_steps, max_steps, val_every_steps), max_steps])
    num_probes = min(MOST_PROBES, max(1, max_steps // STEPS_PER_PROBE))
    wanted = np.geomspace(boundaries[-1], boundaries[0], num_probes)
    return frozenset(int(boundaries[np.abs(boundaries - step).argmin()]) for step in wanted)


def gradient_norms(
    network: nn.Module, layers: list[str], images: Tensor, loss_of: Callable[[Tensor], Tensor]
) -> NDArray[np.float32]:
    """L2 norm of the loss's gradient for each layer's weights, float32 (num_layers,).

    `loss_of` maps the network's outputs to the mean loss.

    In float32 whatever the run's precision, and with batch norm as in training. The network runs on copies of its
    buffers and on fresh leaves for its parameters: its moving averages, its `.grad` and its hooks stay as they are.
    """
    parameters = {name: value.detach().requires_grad_() for name, value in network.named_parameters()}
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    with torch.enable_grad(), _without_kernel_search():
        loss = loss_of(functional_call(network, {**parameters, **buffers}, (images,)))
        gradients = torch.autograd.grad(loss, [parameters[f"{layer}.weight"] for layer in layers])
    norms: NDArray[np.float32] = torch.stack([torch.linalg.vector_norm(g) for g in gradients]).cpu().numpy()
    return norms


@contextmanager
def _without_kernel_search() -> Iterator[None]:
    """On a GPU, timing kernels for the probe's shapes would cost more than the probes."""
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark


class GradientNorms(Callback):
    """Measures each layer's gradient before the first step and at validation boundaries: gradients.npz.

    Always on the same images, without crops and flips, so that networks, seeds and steps can be compared. A
    continued run reads the file and drops what was measured after the step it continues from.

    Args:
        data: its first training images are the probe.
        directory: the run's.
        plan: the end of the run, and where validations fall.
    """

    def __init__(self, data: ImageDataModule, directory: Path, plan: Plan) -> None:
        self.data = data
        self.directory = directory
        self.steps = probe_steps(plan.max_steps, plan.val_every_steps)
        self.layers: list[str] = []
        self.series: dict[int, NDArray[np.float32]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the initial weights, or go on with what an earlier segment measured."""
        assert isinstance(pl_module, SupervisedModule)
        self.layers = probed_layers(pl_module.network)
        if not trainer.is_global_zero or not self.layers:
            return
        if pl_module.step == 0:
            self._measure(pl_module)
        elif arrays_path(self.directory, "gradients").exists():  # not so in a run of an older version
            self.series = self._earlier(pl_module.step)

    def _earlier(self, last_step: int) -> dict[int, NDArray[np.float32]]:
        """What an earlier segment measured up to a step; a damaged file costs these measurements alone."""
        path = arrays_path(self.directory, "gradients")
        try:
            arrays = load_arrays(self.directory, "gradients")
            steps, norms = arrays["step"], arrays["norm"]
        except (OSError, InputError, KeyError, zipfile.BadZipFile) as error:
            print(f"{path} is damaged ({type(error).__name__}): its norms of gradients are lost.")
            return {}
        if steps.ndim != 1 or steps.dtype.kind not in "iu" or norms.shape != (len(steps), len(self.layers)):
            print(f"{path} is not of this network: its norms of gradients are lost.")
            return {}
        return {step: norm for step, norm in zip(steps.tolist(), norms, strict=True) if step <= last_step}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure where it is due, and where a callback ends the run."""
        assert isinstance(pl_module, SupervisedModule)
        if trainer.is_global_zero and self.layers and (pl_module.step in self.steps or trainer.should_stop):
            self._measure(pl_module)

    def _measure(self, module: SupervisedModule) -> None:
        images, labels = self.data.on_device("train", module.device).eval_batch(0, PROBE_IMAGES)
        with as_in_training(module.network):
            self.series[module.step] = gradient_norms(
                module.network, self.layers, images, lambda outputs: module.task.loss_sum(outputs, labels) / len(labels)
            )
        steps = np.array(list(self.series), dtype=np.int64)
        norms = np.stack(list(self.series.values()))
        write_arrays(self.directory, "gradients", layer=np.array(self.layers), step=steps, norm=norms)
