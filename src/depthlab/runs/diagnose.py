"""What a network is and how its gradients flow, before training or after it, measured on one batch.

Everything is measured on a copy: weights, moving averages, gradients and the random state of the caller stay as they
are. The numbers follow from the configuration, its seed included; only times differ from one call to the next.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from depthlab.config.images import ImageSpec
from depthlab.config.schema import TrainConfig
from depthlab.errors import InputError
from depthlab.models import TwoStream, count_macs, count_params, freeze
from depthlab.models.counter_rng import as_in_training
from depthlab.models.counts import count_by_layer, count_kept_bytes
from depthlab.models.freezing import streams
from depthlab.runs.build import build_data, build_module, build_network, start_from
from depthlab.runs.defects import (
    Defect,
    Subject,
    Trace,
    gradient_defects,
    growth_defects,
    static_defects,
    trace,
    traced_defects,
)
from depthlab.runs.describe import describe_network
from depthlab.training.callbacks.gradient_norms import PROBE_IMAGES, probed_layers
from depthlab.training.module import SupervisedModule

if TYPE_CHECKING:
    from depthlab.runs.open_run import OpenRun

# The largest norm of a tensor's gradient over the smallest. Residual networks of basic blocks have 44 to 738 here at
# their initialisation, up to 110 layers. Beyond 2^24, updates of the one tensor are lost in float32 at a rate at which
# those of the other are as large as its weights.
EVEN_RATIO = 1e3
FLOAT32_RATIO = 2.0**24
# Growth of the gradient from the last layer to the first: the paper's schedule divides its rate by 10 at a time, so
# that layers which differ by less want the same rate.
STEADY_GROWTH = 10.0
TURNS = 5  # of timing; the median counts
PARTS = ("layers", "signals", "gradients", "one step", "streams", "speed")


@dataclass(frozen=True)
class Sample:
    """A batch and what the data ask of a network."""

    images: Tensor
    targets: Tensor
    num_outputs: int
    data: str = ""


@dataclass(frozen=True)
class Compared:
    """Another network on the same images, for the table of speed and memory."""

    name: str
    network: nn.Module


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
    copied = copy.deepcopy(network)
    module = build_module(config, copied, sample.num_outputs)
    found = Diagnosis()
    with torch.random.fork_rng(devices=[]), as_in_training(copied):
        subject = Subject(
            copied,
            config.model.shape["residual"],
            config.model.freeze,
            sample.num_outputs,
            sample.images,
            _loss(module, sample),
        )
        watch("layers")
        found.defects += static_defects(subject)
        passed = _trace(subject, found.defects)
        found.network = _describe(network, config, sample)
        found.layers = count_by_layer(copied, _size(sample.images))
        watch("signals")
        found.defects += traced_defects(subject, passed, found.defects)
        found.units = list(_units(passed))
        watch("gradients")
        gradients = _gradients(subject)
        found.defects += gradient_defects(subject, gradients, found.defects)
        found.gradients = _summary(copied, passed, gradients)
        if not found.defects:
            found.defects += _growth_defects(found.gradients)
        watch("one step")
        found.tensors = _tensors(module, gradients)
        watch("streams")
        found.streams = _streams(network, sample.images)
        if found.streams is not None and not found.defects:
            found.defects += _additivity(found.streams)
        watch("speed")
        found.speed = _speed(
            {config.model.name: network, **({against.name: against.network} if against else {})}, subject
        )
    return found


def _compared(config: TrainConfig, network: nn.Module, images: Tensor) -> Compared:
    channels, height, width = _size(images)
    described = describe_network(config, network, ImageSpec(height, width, channels))  # raises InputError early
    return Compared(described["name"], network)


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
        known = "".join(f" {defect.text[0].upper()}{defect.text[1:]}." for defect in defects)
        size = " x ".join(map(str, subject.images.shape[1:]))
        reason = " ".join(str(error).split()[:25])
        raise InputError(f"the network cannot compute images of {size}: {reason}.{known}") from None


def _units(passed: Trace) -> Iterator[dict[str, Any]]:
    """For each layer, how many of the channels that it receives are zero for the whole batch."""
    for call in passed.calls:
        if call.chain:
            yield {"after": call.chain[-1], "before": call.name, "dead": int(call.dead.sum()), "units": len(call.dead)}


def _gradients(subject: Subject) -> dict[str, Tensor | None]:
    """The gradient of every tensor that trains; None where none reaches it."""
    trained = {name: each for name, each in subject.network.named_parameters() if each.requires_grad}
    loss = subject.loss_of(subject.network(subject.images))
    if not loss.requires_grad:
        return dict.fromkeys(trained)
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values()), allow_unused=True), strict=True))


def _summary(network: nn.Module, passed: Trace, gradients: dict[str, Tensor | None]) -> dict[str, Any]:
    """The extremes of the tensors' gradients, and for each stream the growth from its last layer to its first."""
    norms = {name: _norm(each) for name, each in gradients.items() if each is not None}
    alive = {name: norm for name, norm in norms.items() if 0 < norm < math.inf}
    weights = {call.name: norms.get(f"{call.name}.weight") for call in passed.calls if "downsample" not in call.name}
    found: dict[str, Any] = {"streams": []}
    for prefix, stream in streams(network).items():
        path = [(n, norm) for n, norm in weights.items() if norm is not None and n.startswith(prefix)]
        fitted = [norms.get(f"{prefix}{name}.weight", 0.0) for name in probed_layers(stream)]
        names, values = [name for name, _ in path], [norm for _, norm in path]
        found["streams"].append({"stream": prefix.rstrip("."), "layers": names, "norms": values, **_growth(fitted)})
    if alive:
        least, most = min(alive, key=alive.__getitem__), max(alive, key=alive.__getitem__)
        ratio = alive[most] / alive[least]
        found |= {"smallest": [least, alive[least]], "largest": [most, alive[most]], "ratio": ratio}
        words = ("even", EVEN_RATIO), ("uneven", FLOAT32_RATIO), ("beyond float32", math.inf)
        found["verdict"] = next(word for word, limit in words if ratio < limit)
    return found


def _norm(values: Tensor) -> float:
    """The L2 norm, in float64: its squares overflow float32 long before the values do."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))


def _growth(norms: list[float]) -> dict[str, Any]:
    """A line through the logarithms of the finite norms: the factor a layer towards the input, and over all layers."""
    finite = [(place, math.log(norm)) for place, norm in enumerate(norms) if 0 < norm < math.inf]
    if len(finite) < 3:
        return {"growth": None, "total": None, "fitted_layers": len(finite), "verdict": "not fitted"}
    places, logs = zip(*finite, strict=True)
    growth = math.exp(-np.polyfit(places, logs, 1)[0])
    total = growth ** (len(finite) - 1)
    verdict = "grows towards the input" if total > STEADY_GROWTH else "steady"
    verdict = "shrinks towards the input" if total < 1 / STEADY_GROWTH else verdict
    verdict = verdict if all(norm < math.inf for norm in norms) else "overflows float32 on its way to the input"
    return {"growth": growth, "total": total, "fitted_layers": len(finite), "verdict": verdict}


def _growth_defects(gradients: dict[str, Any]) -> list[Defect]:
    return [
        defect
        for stream in gradients["streams"]
        for defect in growth_defects(stream["layers"], stream["norms"], stream["growth"])
    ]


def _tensors(module: SupervisedModule, gradients: dict[str, Tensor | None]) -> list[dict[str, Any]]:
    """Every tensor with its gradient's norm and how far one step of the configured optimiser moves it."""
    named = dict(module.network.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    optimizer = module.configure_optimizers()
    for group in optimizer.param_groups:
        group["lr"] = module.schedule(0) * group.get("lr_factor", 1.0)
    for name, gradient in gradients.items():
        named[name].grad = gradient
    optimizer.step()
    rows = []
    for name, parameter in named.items():
        gradient, change = gradients.get(name), parameter.detach() - before[name]
        row = {"tensor": name, "shape": list(parameter.shape), "num_values": parameter.numel()}
        measured = {"gradient": None if gradient is None else _norm(gradient), "moved": bool(change.any())}
        rows.append({**row, "trains": parameter.requires_grad, **measured, "step": _norm(change)})
    return rows


@torch.no_grad()
def _streams(network: nn.Module, images: Tensor) -> dict[str, Any] | None:
    """Each stream alone, and by how much their sum differs from the output. None for a network of one stream."""
    if not isinstance(network, TwoStream):
        return None
    copied = copy.deepcopy(network).eval()
    alone, both = dict(zip(streams(copied), copied.scores(images), strict=True)), copied(images)
    rows = []
    for prefix, scores in alone.items():
        num_tensors = len(list(streams(copied)[prefix].parameters()))
        size = {"num_params": count_params(streams(copied)[prefix]), "num_tensors": num_tensors}
        agrees = float((scores.argmax(dim=1) == both.argmax(dim=1)).float().mean())
        rows.append(
            {"stream": prefix.rstrip("."), **size, "mean_abs_score": float(scores.abs().mean()), "agrees": agrees}
        )
    difference = float((sum(alone.values()) - both).abs().max())
    return {"alone": rows, "difference": difference, "mean_abs_score": float(both.abs().mean())}


def _additivity(found: dict[str, Any]) -> list[Defect]:
    """float32 keeps seven digits; the sum of two streams is rounded once."""
    if found["difference"] <= 1e-5 * max(1.0, found["mean_abs_score"]):
        return []
    text = f"the output differs from the sum of the streams by up to {found['difference']:.3g}"
    return [Defect("stream not connected", "the output", text)]


def _speed(networks: dict[str, nn.Module], subject: Subject) -> list[dict[str, Any]]:
    """Milliseconds and MiB of each network for the batch, measured in turns."""
    copies = {name: copy.deepcopy(network).train() for name, network in networks.items()}
    forward: dict[str, list[float]] = {name: [] for name in copies}
    whole: dict[str, list[float]] = {name: [] for name in copies}
    for turn in range(TURNS + 1):
        for name, network in copies.items():
            started = time.perf_counter()
            with torch.no_grad():
                network(subject.images)
            passed = time.perf_counter()
            _backward(subject, network)
            if turn:  # the first one warms up
                forward[name].append(1000 * (passed - started))
                whole[name].append(1000 * (time.perf_counter() - passed))
    return [
        {
            "network": name,
            "num_params": count_params(network),
            "num_macs": count_macs(network, _size(subject.images)),
            "forward_ms": statistics.median(forward[name]),
            "step_ms": statistics.median(whole[name]),
            "params_mib": sum(each.nbytes for each in network.parameters()) / 2**20,
            "kept_mib": count_kept_bytes(network, subject.images) / 2**20,
        }
        for name, network in copies.items()
    ]


def _backward(subject: Subject, network: nn.Module) -> None:
    loss = subject.loss_of(network(subject.images))
    if loss.requires_grad:
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)
