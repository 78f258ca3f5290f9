"""Depthlab: the depth-degradation experiments of He et al. 2015, from one command to a recorded result."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthlab.runs.evaluate import load_run as load_run

__version__ = "0.1.0"
__all__ = ["load_run"]


def __getattr__(name: str) -> Any:
    # On first use: the command line answers --help in a fraction of the second that importing torch takes.
    if name == "load_run":
        from depthlab.runs.evaluate import load_run

        return load_run
    raise AttributeError(f"module 'depthlab' has no attribute {name!r}")
