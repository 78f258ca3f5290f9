"""Compiling what training computes, with a cache that outlives the process."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from depthlab.errors import InputError
from depthlab.training.module import SupervisedModule

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
CPP_COMPILERS = ("g++", "clang++", "c++")


def compile_training(module: SupervisedModule, accelerator: str) -> None:
    """Have the network's forward and backward compiled at the first training step.

    Evaluation stays eager, and names in checkpoints are those of an uncompiled network.

    Raises:
        InputError: there is nothing to compile with.
    """
    _check_compiler(accelerator)
    # torch's own default lies in the temporary folder, which machines empty when they start.
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "depthlab" / "inductor"
    os.environ.setdefault(CACHE_VARIABLE, str(cache))
    module.compile(dynamic=False)


def _check_compiler(accelerator: str) -> None:
    if accelerator == "gpu":
        if importlib.util.find_spec("triton") is None:
            raise InputError("trainer.compile=true: Triton is not installed here. Use trainer.compile=false.")
    elif not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *CPP_COMPILERS) if name):
        raise InputError(
            "trainer.compile=true: there is no C++ compiler here. Install g++ or clang++, or use trainer.compile=false."
        )
