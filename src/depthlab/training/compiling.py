"""Compiling what training computes, with a cache that outlives the process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthlab.errors import InputError
from depthlab.models.freezing import streams
from depthlab.training.module import SupervisedModule

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
TRITON_CACHE = "TRITON_CACHE_DIR"
COMPILE_THREADS = "TORCHINDUCTOR_COMPILE_THREADS"
# Inductor's own graphs, which a variable can switch on, could not be replayed inside of ours.
NO_GRAPHS: dict[str, Any] = {"triton.cudagraphs": False}
CACHED = (".py", ".so", ".cpp", ".o", ".cubin", ".ptx", ".json")
CPP_COMPILERS = ("g++", "clang++", "c++")


def compile_training(
    module: SupervisedModule, accelerator: str, scope: str = "auto", say: Callable[[str], None] = print
) -> None:
    """Have the network's forward and backward compiled at the first training step.

    Evaluation stays eager, and names in checkpoints are those of an uncompiled network.

    Args:
        module: its `train_forward` is replaced.
        accelerator: what it runs on.
        scope: "network"; "blocks", of which those of one shape share what is compiled: minutes less for deep
            networks; "auto", blocks on a GPU and the network elsewhere.
        say: is told where the cache could not be used.

    Raises:
        InputError: there is nothing to compile with.
    """
    _check_compiler(accelerator)
    # torch's own default lies in the temporary folder, which machines empty when they start.
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "depthlab" / "inductor"
    os.environ.setdefault(CACHE_VARIABLE, str(cache))
    _compile_with_own_cores()
    remove_empty_files(Path(os.environ[CACHE_VARIABLE]))
    blocks = compilable_blocks(module.network) if scope == "blocks" or (scope, accelerator) == ("auto", "gpu") else []
    if blocks:
        module.train_forward = CompiledBlocks(module.network, blocks)
    else:
        module.compile(dynamic=False, options=NO_GRAPHS)
    module.train_forward = FirstCallRetried(module.train_forward, say)


def compilable_blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks of the network's stages; none where it names no stages, or computes them twice.

    A stage that is computed again for the gradient runs in the backward pass, where blocks would be eager.
    """
    found: list[nn.Module] = []
    for stream in streams(network).values():
        if getattr(stream, "activation_checkpointing", False):
            return []
        for name in getattr(stream, "stage_names", ()):
            found += stream.get_submodule(name).children()
    return found


class CompiledBlocks:
    """A network's forward pass with its blocks compiled; called otherwise, the network stays eager.

    Args:
        network: the network.
        blocks: parts of it.
    """

    def __init__(self, network: nn.Module, blocks: Sequence[nn.Module]) -> None:
        from torch._dynamo import config as dynamo
        from torch._inductor import config as inductor

        # One kernel for many small independent ones, such as the casts of weights.
        options = NO_GRAPHS | ({"combo_kernels": True} if hasattr(inductor, "combo_kernels") else {})
        # By default eight kinds of blocks are compiled and the others stay eager. With stochastic depth each block is
        # of a kind of its own.
        dynamo.recompile_limit = max(dynamo.recompile_limit, len(blocks))
        self._network = network
        self._compiled = [(block, torch.compile(block.forward, dynamic=False, options=options)) for block in blocks]

    def __call__(self, images: Tensor) -> Tensor:
        """Outputs of images, as the network's own forward pass gives them."""
        for block, compiled in self._compiled:
            block.forward = compiled
        try:
            outputs: Tensor = self._network.forward(images)
        finally:
            for block, _ in self._compiled:
                del block.forward
        return outputs


class FirstCallRetried:
    """Compiles again into a new cache where the first call fails: files of the old one may be damaged."""

    def __init__(self, forward: Callable[[Tensor], Tensor], say: Callable[[str], None]) -> None:
        self._forward = forward
        self._say = say
        self._has_worked = False

    def __call__(self, images: Tensor) -> Tensor:
        """What `forward` returns."""
        if self._has_worked:
            return self._forward(images)
        try:
            outputs = self._forward(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            old, new = os.environ[CACHE_VARIABLE], tempfile.mkdtemp(prefix="depthlab-inductor-")
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self._say(f"compiling failed ({reason}). Trying once more without the cache in {old}, in {new}.")
            os.environ[CACHE_VARIABLE] = new
            if Path(os.environ.get(TRITON_CACHE, "")).is_relative_to(old):  # Inductor has put it there
                del os.environ[TRITON_CACHE]
            torch.compiler.reset()
            outputs = self._forward(images)
        self._has_worked = True
        return outputs


def _compile_with_own_cores() -> None:
    """By default a job starts up to 32 compiling processes, whatever its share of the cores.

    Inductor reads the variable when it is imported, which Lightning has done by now.
    """
    from torch._inductor import config as inductor

    os.environ.setdefault(COMPILE_THREADS, str(torch.get_num_threads()))
    inductor.compile_threads = int(os.environ[COMPILE_THREADS])


def remove_empty_files(cache: Path) -> None:
    """Of a machine that lost power while it wrote: Inductor takes a file that is there for a whole one."""
    for path in cache.rglob("*"):
        if path.suffix in CACHED and path.is_file() and path.stat().st_size == 0:
            path.unlink(missing_ok=True)


def _check_compiler(accelerator: str) -> None:
    if accelerator == "gpu":
        if importlib.util.find_spec("triton") is None:
            raise InputError("trainer.compile=true: Triton is not installed here. Use trainer.compile=false.")
    elif not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *CPP_COMPILERS) if name):
        raise InputError(
            "trainer.compile=true: there is no C++ compiler here. Install g++ or clang++, or use trainer.compile=false."
        )
