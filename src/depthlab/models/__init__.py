"""The networks, in torch alone: `from depthlab.models import resnet56` needs neither Hydra nor Lightning."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthlab.models.zoo import *  # noqa: F403 - exactly what `__getattr__` finds

    __all__: list[str]


def __getattr__(name: str) -> Any:
    # On first use: the specs in this package are read by commands that do without torch.
    if name.startswith("__") or find_spec(f"depthlab.models.{name}"):
        raise AttributeError(f"module 'depthlab.models' has no attribute {name!r}")
    zoo = import_module("depthlab.models.zoo")
    if name not in zoo.__all__:
        raise AttributeError(f"module 'depthlab.models' has no attribute {name!r}")
    return getattr(zoo, name)
