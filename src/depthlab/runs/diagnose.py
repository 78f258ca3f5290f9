"""What a network is and how its gradients flow, before training or after it, measured on one batch.

Everything is measured on a copy: weights, moving averages, gradients and the random state of the caller stay as they
are. The numbers follow from the configuration, its seed included; only times differ from one call to the next.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from depthlab.config.images import ImageSpec
from depthlab.config.schema import TrainConfig
from depthlab.errors import InputError
from depthlab.models import count_macs, count_params, freeze
from depthlab.models.counter_rng import as_in_training
from depthlab.models.counts import count_by_layer
from depthlab.runs.build import build_data, build_module, build_network, start_from
from depthlab.runs.defects import Defect, Subject, static_defects
from depthlab.runs.describe import describe_network
from depthlab.runs.forward_defects import Trace, trace, traced_defects
from depthlab.runs.gradient_defects import gradient_defects, growth_defects
from depthlab.runs.gradient_flow import gradient_summary, gradients_of, tensor_rows
from depthlab.runs.network_speed import Compared, speed_rows
from depthlab.runs.separate_streams import additivity_defects, stream_scores
from depthlab.training.callbacks.gradient_norms import PROBE_IMAGES
from depthlab.training.module import SupervisedModule

if TYPE_CHECKING:
    from depthlab.runs.open_run import OpenRun

PARTS = ("layers", "signals", "gradients", "one step", "streams", "speed")


@dataclass(frozen=True)
class Sample:
    """A batch and what the data ask of a network."""

    images: Tensor
    targets: Tensor
    num_outputs: int
    data: str = ""


@dataclass
class Diagnosis:
    """What was found, part by part, as plain data for a file."""

    network: dict[str, Any] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    tensors: list[dict[str, Any]] = field(default_factory=list)
    gradients: dict[str, Any] = field(default_factory=dict)
    units: list[dict[str, Any]] = field(default_factory=list)
    streams: dict[str, Any] | None = None
    speed: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)


def diagnose_model(
    config: TrainConfig, against: TrainConfig | None = None, watch: Callable[[str], None] = lambda part: None
) -> Diagnosis:
    """Diagnose a network as a run would begin with it, on the first training images.

    Args:
        config: of the run.
        against: of another network, with the same data.
        watch: is told the name of each of `PARTS` before it is measured.

    Raises:
        InputError: the data are absent, or the network cannot compute such images.
    """
    with torch.random.fork_rng(devices=[]):
        data = build_data(config)
        images, targets = data.on_device("train", torch.device("cpu")).eval_batch(0, PROBE_IMAGES)
        sample = Sample(images, targets, data.num_outputs, config.data.name)
        network = build_network(config, data.image_spec, data.num_outputs, data.normalization)
        start_from(config, network)
        freeze(network, config.model.freeze)
        other = None
        if against is not None:
            built = build_network(against, data.image_spec, data.num_outputs, data.normalization)
            other = _compared(against, built, images)
        return diagnose(network, config, sample, other, watch)


def diagnose_run(
    run: OpenRun, against: TrainConfig | None = None, watch: Callable[[str], None] = lambda part: None
) -> Diagnosis:
    """Diagnose a run's network with its last weights, on the run's first training images. See `diagnose_model`."""
    labelled, num_outputs = run.data("train"), run.record.data["num_classes"]
    images, targets = run.preprocess(labelled.images[:PROBE_IMAGES]), torch.from_numpy(labelled.labels[:PROBE_IMAGES])
    sample = Sample(images, targets, num_outputs, run.config.data.name)
    channels, height, width = _size(images)
    with torch.random.fork_rng(devices=[]):
        other = None
        if against is not None:
            built = build_network(against, ImageSpec(height, width, channels), num_outputs)
            other = _compared(against, built, images)
        return diagnose(run.network(), run.config, sample, other, watch)


def diagnose(
    network: nn.Module,
    config: TrainConfig,
    sample: Sample,
    against: Compared | None = None,
    watch: Callable[[str], None] = lambda part: None,
) -> Diagnosis:
    """Diagnose `network`, which `config` declares, on a batch. See `diagnose_model`."""
    copied = _copied(network)
    module = build_module(config, copied, sample.num_outputs)
    found = Diagnosis()
    with torch.random.fork_rng(devices=[]), as_in_training(copied):
        declared = config.model.shape["residual"], config.model.freeze
        subject = Subject(copied, *declared, sample.num_outputs, sample.images, _loss(module, sample))
        watch("layers")
        found.defects += static_defects(subject)
        passed = _trace(subject, found.defects)
        found.network = _describe(network, config, sample)
        found.layers = count_by_layer(copied, _size(sample.images))
        watch("signals")
        found.defects += traced_defects(subject, passed, found.defects)
        found.units = list(_units(passed))
        watch("gradients")
        gradients = gradients_of(subject)
        found.defects += gradient_defects(subject, gradients, found.defects)
        found.gradients = gradient_summary(copied, passed, gradients)
        if not found.defects:
            found.defects += _growth_defects(found.gradients)
        watch("one step")
        found.tensors = tensor_rows(module, gradients)
        watch("streams")
        found.streams = stream_scores(network, sample.images)
        if found.streams is not None and not found.defects:
            found.defects += additivity_defects(found.streams)
        watch("speed")
        own = Compared(config.model.name, network, found.network["num_macs"])
        found.speed = speed_rows([own, *([against] if against else [])], subject)
    return found


def _copied(network: nn.Module) -> nn.Module:
    copied = copy.deepcopy(network)
    for own, original in zip(copied.parameters(), network.parameters(), strict=True):
        own._backward_hooks = original._backward_hooks  # which a deep copy leaves out
    return copied


def _compared(config: TrainConfig, network: nn.Module, images: Tensor) -> Compared:
    channels, height, width = _size(images)
    described = describe_network(config, network, ImageSpec(height, width, channels))  # raises InputError early
    return Compared(described["name"], network, described["num_macs"])


def _describe(network: nn.Module, config: TrainConfig, sample: Sample) -> dict[str, Any]:
    return {
        "name": config.model.name,
        "family": config.model.family,
        **config.model.shape,
        "num_params": count_params(network),
        "num_macs": count_macs(network, _size(sample.images)),
        "num_tensors": len(list(network.parameters())),
        "num_outputs": sample.num_outputs,
        "data": sample.data,
        "images": list(sample.images.shape),
        "seed": config.seed,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _size(images: Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, height, width


def _loss(module: SupervisedModule, sample: Sample) -> Callable[[Tensor], Tensor]:
    """The task's mean loss; of outputs in another number than the data ask for, their mean square."""

    def loss(outputs: Tensor) -> Tensor:
        if outputs.shape[1] != sample.num_outputs:
            return outputs.square().mean()
        return module.task.loss_sum(outputs.float(), sample.targets) / len(sample.targets)

    return loss


def _trace(subject: Subject, defects: list[Defect]) -> Trace:
    try:
        return trace(subject)
    except RuntimeError as error:
        known = "".join(f" Defect: {defect.text}." for defect in defects)
        size = " x ".join(map(str, subject.images.shape[1:]))
        reason = " ".join(str(error).split()[:25])
        raise InputError(f"the network cannot compute images of {size}: {reason}.{known}") from None


def _units(passed: Trace) -> Iterator[dict[str, Any]]:
    """For each layer, how many of the channels that it receives are zero for the whole batch."""
    for call in passed.calls:
        if call.chain:
            yield {"after": call.chain[-1], "before": call.name, "dead": int(call.dead.sum()), "units": len(call.dead)}


def _growth_defects(gradients: dict[str, Any]) -> list[Defect]:
    return [
        defect
        for stream in gradients["streams"]
        for defect in growth_defects(stream["layers"], stream["norms"], stream["growth"])
    ]
