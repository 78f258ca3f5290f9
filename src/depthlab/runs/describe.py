"""What a record says of the network, the extensions and the results of a run."""

from __future__ import annotations

from typing import Any

from torch import nn

from depthlab.config.images import ImageSpec
from depthlab.config.registry import find_extension
from depthlab.config.schema import TrainConfig
from depthlab.errors import InputError
from depthlab.models import count_macs, count_params
from depthlab.runs.code import specs_in_use
from depthlab.training.callbacks.metric_logger import MetricLogger
from depthlab.training.module import SupervisedModule


def describe_network(config: TrainConfig, network: nn.Module, images: ImageSpec) -> dict[str, Any]:
    """What a record says of the network. Depth and residual are null where they would mean nothing."""
    try:
        num_macs = count_macs(network, (images.channels, images.height, images.width))
    except RuntimeError as error:
        size = f"{images.height} x {images.width}"
        raise InputError(f"model.name={config.model.name}: not for images of {size} pixels ({error}).") from None
    return {
        "name": config.model.name,
        **config.model.shape,
        "num_params": count_params(network),
        "num_macs": num_macs,
    }


def extensions_in_use(config: TrainConfig) -> dict[str, str]:
    """The extensions whose components a run uses, with their versions."""
    found = [find_extension(type(spec)) for spec in specs_in_use(config)]
    return {extension.name: extension.version for extension in found if extension is not None}


def final_metrics(module: SupervisedModule, curves: MetricLogger) -> dict[str, float | None]:
    """The metrics of a finished run: of every split with the last weights, and of the last epoch of training."""
    values = module.values(curves.last_epoch)
    metrics: dict[str, float | None] = {f"val/{name}": None for name in values}
    metrics |= module.compute_metrics()
    metrics |= {f"train/{name}_running": value for name, value in values.items()}
    return dict(sorted(metrics.items()))
