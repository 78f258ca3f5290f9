"""Depthlab: the depth-degradation experiments of He et al. 2015, from one command to a recorded result."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthlab.runs import diff as diff
    from depthlab.runs.evaluate import load_run as load_run
    from depthlab.runs.open_run import open_run as open_run

__version__ = "0.2.0.dev0"
__all__ = ["diff", "load_run", "open_run", "runs"]

_PLACES = {"open_run": "depthlab.runs.open_run", "load_run": "depthlab.runs.evaluate", "diff": "depthlab.runs"}


def __getattr__(name: str) -> Any:
    # On first use: the command line answers --help in a fraction of the second that importing torch takes.
    if name == "runs":
        return import_module("depthlab.runs")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'depthlab' has no attribute {name!r}")
