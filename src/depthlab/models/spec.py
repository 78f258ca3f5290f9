"""What every network declares: its name, the weights it starts from, and which of the shared keys it supports."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from depthlab.config.combinations import check_name
from depthlab.config.images import ImageSpec
from depthlab.config.registry import define_group
from depthlab.config.spec import Spec, key, keys_of
from depthlab.errors import InputError

if TYPE_CHECKING:
    from torch import nn

# The shared keys that ask something of a network, with the value at which they ask nothing.
SHARED: dict[str, Any] = {
    "dropout": 0.0,
    "stochastic_depth": 0.0,
    "activation_checkpointing": False,
    "two_stream": False,
    "freeze": "none",
}


@define_group("model", selector="family")
@dataclass(frozen=True)
class ModelSpec(Spec):
    """What every network has: a name, the weights it starts from, what of it trains.

    A subclass adds keys of its own and says with `network` what is called with them. What else the constructor takes
    it is given: `in_channels`, `num_classes` (outputs), `image_size` (height, width), and the shared keys that
    `supports` lists.
    """

    supports: ClassVar[frozenset[str]] = frozenset()  # which of SHARED
    output: ClassVar[str] = "vectors"  # (N, num_classes); "images" for (N, num_classes, H, W)

    name: str = key("", column=True, help="what the network is called; empty: by what it is")
    weights: str | None = key(
        None,
        identity_default=None,
        is_path=True,
        help="a file, a run's directory, or torchvision's name of weights",
    )
    drop_classifier: bool = key(False, identity_default=False, help="the network keeps its new classifier")
    freeze: str = key("none", identity_default="none", help="backbone, or until:STAGE: parts that do not train")
    dropout: float = key(
        0.0, identity_default=0.0, minimum=0, below=1, help="part of the classifier's input that is zeroed in training"
    )
    two_stream: bool = key(
        False, identity_default=False, help="one network for colour and one for brightness, whose outputs add"
    )
    stochastic_depth: float = key(
        0.0,
        identity_default=0.0,
        minimum=0,
        below=1,
        help="probability of dropping the last block",
    )
    activation_checkpointing: bool = key(
        False, identity=False, optional=True, help="less memory, about a third more time, the same results"
    )

    @property
    def family(self) -> str:
        """The name under which the network is registered."""
        return self.registered

    def network(self) -> Callable[..., nn.Module]:
        """What builds the network, a class or function; imported here: reading a configuration needs no torch."""
        raise InputError(f"model.family={self.registered}: its spec has no method `network`.")

    def build(self, images: ImageSpec, num_outputs: int) -> nn.Module:
        """The network for images of this size and channels."""
        constructor = self.network()
        accepted = inspect.signature(constructor).parameters
        takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values())
        size = images.height, images.width
        given = {"in_channels": images.channels, "num_classes": num_outputs, "image_size": size}
        arguments = {name: value for name, value in given.items() if name in accepted}
        supported = {name: getattr(self, name) for name in self.supports if name in accepted}
        own = {name: value for name, value in self.values().items() if name not in keys_of(ModelSpec)}
        unknown = [name for name in own if not takes_all and name not in accepted]
        if unknown:
            raise InputError(
                f"model.{unknown[0]}: {constructor.__qualname__} takes no argument of this name "
                f"({', '.join(accepted)})."
            )
        return constructor(**arguments, **supported, **own)

    def true_names(self) -> tuple[str, ...]:
        """The names that say what the network is, the usual one first; without those of its streams."""
        return (self.registered,)

    def stage_names(self) -> list[str]:
        """The stages of each stream, from the input on, as `model.freeze=until:` may name them."""
        return []

    @property
    def shape(self) -> dict[str, Any]:
        """What a record says of the network beside its name: null where it would mean nothing."""
        return {"depth": getattr(self, "depth", None), "residual": getattr(self, "residual", None)}

    def completed(self) -> ModelSpec:
        """The spec with its name filled in."""
        return self if self.name else replace(self, name=self.full_names()[0])

    def full_names(self) -> tuple[str, ...]:
        """The names that say what the network is, with its streams."""
        prefix = "two_stream_" if self.two_stream else ""
        return tuple(prefix + name for name in self.true_names())

    def check(self) -> None:
        """Refuse a name, a part or a shared key that the network cannot have."""
        for name, neutral in SHARED.items():
            value = getattr(self, name)
            if value != neutral and name not in self.supports:
                has = ", ".join(f"model.{each}" for each in sorted(self.supports)) or "none of these keys"
                raise InputError(f"model.{name}={value}: {self.registered} does not support it. It supports {has}.")
        self._check_name()
        choices = ["none", "backbone", *(f"until:{stage}" for stage in self.stage_names())]
        if self.freeze not in choices:
            raise InputError(f"model.freeze={self.freeze}: {self.name} has no such part. Valid: {', '.join(choices)}.")
        if self.weights is None and self.freeze != "none":
            raise InputError(f"model.freeze={self.freeze}: what would be frozen are random weights. Set model.weights.")

    def _check_name(self) -> None:
        """A name that begins like one of ours says what the network is, so it must be true; any other name is free."""
        if not self.name:
            return
        check_name("model.name", self.name)
        names = self.full_names()
        if self.name.startswith(TELLING) and self.name not in names:
            raise InputError(
                f"model.name={self.name}: this network is {names[0]}; type model={names[0]} "
                "or give it a name of your own with model.name=..."
            )


TELLING = ("resnet", "plain", "preact_", "wide_", "resnext", "dense", "two_stream_")


def check_depth(depth: int, layers: int, rest: int) -> None:
    """Refuse a depth that is not layers * n + rest with n >= 1."""
    shortest = layers + rest
    if depth < shortest or (depth - rest) % layers:
        below = max(shortest, depth - (depth - rest) % layers)
        examples = ", ".join(str(layers * n + rest) for n in (1, 2, 3))
        raise InputError(
            f"model.depth={depth}: the depth must be {layers}n+{rest} with n >= 1 ({examples}, ...); "
            f"the nearest are {below} and {below + layers}."
        )


def check_plain(residual: bool, shortcut: str, stochastic_depth: float, name: str) -> None:
    """Refuse what only shortcuts make possible in a plain network."""
    if residual:
        return
    if shortcut != "A":
        raise InputError(f"model.shortcut={shortcut}: {name} is plain and has no shortcuts.")
    if stochastic_depth:
        raise InputError(
            f"model.stochastic_depth={stochastic_depth}: {name} is plain; without shortcuts nothing "
            "would be left of an image whose block is dropped. Use its residual twin."
        )


def check_sizes(key_name: str, sizes: list[int]) -> None:
    """Refuse an empty list of sizes, or one with a size below 1."""
    if not sizes or min(sizes) < 1:
        raise InputError(f"model.{key_name}={sizes}: one number above 0 for each layer or block, and at least one.")
