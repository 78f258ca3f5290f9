"""The checks of the group `model`: its numbers name a network, and its name is that network's."""

from __future__ import annotations

from typing import Any

from depthlab.config.schema import (
    CifarNetConfig,
    DenseConfig,
    DenseNetConfig,
    ImageNetConfig,
    NetworkConfig,
    WideNetConfig,
)
from depthlab.errors import InputError

IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
# A name that begins like this says what the network is, so it must be true; any other name is free.
TELLING = ("resnet", "plain", "preact_", "wide_", "resnext", "dense", "two_stream_")


def check_network(model: Any) -> None:
    """Refuse a depth, a name, a part or a regulariser that the network cannot have.

    Raises:
        InputError: naming the key, its value and the remedy.
    """
    assert isinstance(model, NetworkConfig)
    _check_sizes(model)
    _check_name(model)
    _check_regularizers(model)
    _check_start(model)


def stage_names(model: NetworkConfig) -> list[str]:
    """The stages of each stream, from the input on, as `model.freeze=until:` may name them."""
    if isinstance(model, DenseNetConfig):
        return [f"denseblock{idx}" for idx in range(1, len(model.block_config) + 1)]
    if isinstance(model, DenseConfig):
        return [f"layer{idx}" for idx in range(1, len(model.widths) + 1)]
    return [f"layer{idx}" for idx in range(1, 5 if isinstance(model, ImageNetConfig) else 4)]


def true_names(model: NetworkConfig) -> tuple[str, ...]:
    """The names that say what the network is, the usual one first."""
    prefix = "two_stream_" if model.two_stream else ""
    return tuple(prefix + name for name in _stream_names(model))


def _stream_names(model: NetworkConfig) -> tuple[str, ...]:
    if isinstance(model, WideNetConfig):
        return (f"wide_resnet{model.depth}_{model.width_factor}",)
    if isinstance(model, DenseNetConfig):
        num_layers = 2 * sum(model.block_config) + len(model.block_config) + 1
        return f"densenet{num_layers}", f"densenet_bc{num_layers}_{model.growth_rate}"
    if isinstance(model, DenseConfig):
        return ("dense",)
    assert isinstance(model, CifarNetConfig | ImageNetConfig)
    kind, depth = "resnet" if model.residual else "plain", str(model.depth)
    if isinstance(model, ImageNetConfig) and model.groups > 1:
        kind, depth = ("resnext" if model.residual else "plainx"), f"{depth}_{model.groups}x{model.width_per_group}d"
    elif isinstance(model, ImageNetConfig) and model.width_per_group != 64:
        kind, depth = f"wide_{kind}", f"{depth}_{model.width_per_group / 64:g}"
    return (f"{'preact_' if model.preactivation else ''}{kind}{depth}",)


def _check_sizes(model: NetworkConfig) -> None:
    if isinstance(model, CifarNetConfig):
        _check_depth(model.depth, 9 if model.block == "bottleneck" else 6, 2)
    elif isinstance(model, WideNetConfig):
        _check_depth(model.depth, 6, 4)
    elif isinstance(model, ImageNetConfig):
        if model.depth not in IMAGENET_DEPTHS:
            raise InputError(f"model.depth={model.depth}: the depths are {', '.join(map(str, IMAGENET_DEPTHS))}.")
        if model.depth < 50 and (model.groups, model.width_per_group) != (1, 64):
            raise InputError(
                f"model.groups={model.groups}, model.width_per_group={model.width_per_group}: "
                "these are of bottleneck blocks, which networks have from depth 50 on."
            )
    for key in ("widths", "block_config"):
        sizes = getattr(model, key, [1])
        if not sizes or min(sizes) < 1:
            raise InputError(f"model.{key}={sizes}: one number above 0 for each layer or block, and at least one.")


def _check_depth(depth: int, layers: int, rest: int) -> None:
    shortest = layers + rest
    if depth < shortest or (depth - rest) % layers:
        below = max(shortest, depth - (depth - rest) % layers)
        examples = ", ".join(str(layers * n + rest) for n in (1, 2, 3))
        raise InputError(
            f"model.depth={depth}: the depth must be {layers}n+{rest} with n >= 1 ({examples}, ...); "
            f"the nearest are {below} and {below + layers}."
        )


def _check_name(model: NetworkConfig) -> None:
    names = true_names(model)
    if model.name.startswith(TELLING) and model.name not in names:
        raise InputError(
            f"model.name={model.name}: this network is {names[0]}; type model={names[0]} "
            "or give it a name of your own with model.name=..."
        )


def _check_regularizers(model: NetworkConfig) -> None:
    for key in ("dropout", "stochastic_depth"):
        if getattr(model, key, 0.0) >= 1:
            raise InputError(f"model.{key}={getattr(model, key)}: a probability below 1; nothing would be left.")
    if isinstance(model, CifarNetConfig | ImageNetConfig) and not model.residual:
        if model.shortcut != "A":
            raise InputError(f"model.shortcut={model.shortcut}: {model.name} is plain and has no shortcuts.")
        if model.stochastic_depth:
            raise InputError(
                f"model.stochastic_depth={model.stochastic_depth}: {model.name} is plain; without shortcuts nothing "
                "would be left of an image whose block is dropped. Use its residual twin."
            )


def _check_start(model: NetworkConfig) -> None:
    stages = stage_names(model)
    choices = ["none", "backbone", *(f"until:{stage}" for stage in stages)]
    if model.freeze not in choices:
        raise InputError(f"model.freeze={model.freeze}: {model.name} has no such part. Valid: {', '.join(choices)}.")
    if model.weights is None and model.freeze != "none":
        raise InputError(f"model.freeze={model.freeze}: what would be frozen are random weights. Set model.weights.")
