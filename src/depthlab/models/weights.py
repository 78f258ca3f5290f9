"""Starting from weights: reading them as plain tensors, and putting them into a network strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthlab.errors import InputError
from depthlab.models.counter_rng import CounterRNG
from depthlab.models.freezing import classifier_prefixes, streams

State = dict[str, Tensor]
MOST_NAMED = 3  # keys in a message
# Files of torchvision's DenseNets have names from before dots in module names were refused.
OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


def read_weights(path: Path) -> State:
    """The tensors of a state dict in a file, or of the network in one of our checkpoints.

    Only tensors and plain containers are unpickled: nothing in the file can run code.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except Exception as error:  # whatever torch makes of bytes that are no weights: a dozen kinds of error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path} holds no weights that can be loaded as plain tensors: {reason}") from None
    if isinstance(content, dict) and isinstance(content.get("network"), dict):
        content = content["network"]
    return as_state(content, str(path))


def as_state(content: Any, source: str) -> State:
    """`content` if it maps names to tensors.

    Raises:
        InputError: it does not; the message names `source`.
    """
    is_state = isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values())
    if not is_state or not all(isinstance(name, str) for name in content):
        raise InputError(f"{source} holds no state dict: names with tensors are expected.")
    return dict(content)


def download_weights(network_name: str, name: str) -> State:
    """What torchvision publishes for one of its networks; its file is kept in torch's hub folder (TORCH_HOME).

    Args:
        network_name: as torchvision calls it, such as "resnet50".
        name: of the weights, such as "IMAGENET1K_V2" or "DEFAULT".

    Raises:
        InputError: torchvision has no such network or weights, or they cannot be downloaded.
    """
    import torchvision.models  # only here: its import takes a second

    try:
        choices = torchvision.models.get_model_weights(network_name)
    except ValueError:
        raise InputError(
            f"model.weights={name}: torchvision publishes no weights for {network_name}. "
            "Give a file or a run's directory."
        ) from None
    if name not in choices.__members__:
        valid = ", ".join(choices.__members__)
        raise InputError(f"model.weights={name}: torchvision's weights for {network_name} are {valid}.")
    try:
        content = choices[name].get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"model.weights={name}: the download failed ({error}). Give a file instead.") from None
    except Exception:  # torch has several kinds of error for a file that asks for code
        raise InputError(f"model.weights={name}: the file in {torch.hub.get_dir()} holds more than tensors.") from None
    state = as_state(content, name)
    return {OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}


def load_weights(network: nn.Module, state: State, source: str, drop_classifier: bool) -> int:
    """Put every tensor of `state` into `network`, or none.

    Args:
        network: one of ours; its classifier keeps its initial weights where `drop_classifier` is true.
        state: names and tensors. Random masks belong to a run and are never taken over.
        source: where they are from, for messages.
        drop_classifier: whether to leave the classifier's tensors out.

    Returns:
        how many tensors were loaded.

    Raises:
        InputError: names or shapes are not those of the network; the first that differ are named.
    """
    own, classifier = network.state_dict(), classifier_prefixes(network)
    if drop_classifier and not classifier:
        raise InputError(
            f"model.drop_classifier=true: {type(network).__name__} does not say which part is its classifier. "
            "Give the class an attribute classifier_name."
        )
    left_out = _noise_prefixes(network) + (classifier if drop_classifier else ())
    expected = {name: value.shape for name, value in own.items() if not name.startswith(left_out)}
    masks = tuple(f"{prefix}noise." for prefix in streams(network))
    found = {name: value for name, value in state.items() if not name.startswith((*left_out, *masks))}
    differences = _differences(expected, {name: value.shape for name, value in found.items()})
    if differences:
        raise InputError(_refusal(differences, source, classifier))
    network.load_state_dict({**own, **found})  # a counter that is not there keeps our own
    return len(found)


def _noise_prefixes(network: nn.Module) -> tuple[str, ...]:
    return tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, CounterRNG))


def _differences(expected: Mapping[str, torch.Size], found: Mapping[str, torch.Size]) -> dict[str, str]:
    """For each name that differs, in the network's order, how. Old files have no counters of batches."""
    differences = {
        name: f"is {_shape(found[name])} there and {_shape(shape)} here" if name in found else "is not there"
        for name, shape in expected.items()
        if found.get(name) != shape and not (name not in found and name.endswith("num_batches_tracked"))
    }
    return differences | {name: "is not of this network" for name in found if name not in expected}


def _refusal(differences: Mapping[str, str], source: str, classifier: tuple[str, ...]) -> str:
    first = "; ".join(f"{name} {how}" for name, how in list(differences.items())[:MOST_NAMED])
    more = f"; and {len(differences) - MOST_NAMED} more" if len(differences) > MOST_NAMED else ""
    if all(name.startswith(classifier) for name in differences):
        remedy = "Only the classifier differs: model.drop_classifier=true loads everything else."
    else:
        remedy = "They are of another network; model.drop_classifier=true would leave out the classifier alone."
    return f"model.weights={source}: {first}{more}. {remedy}"


def _shape(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "a number"
