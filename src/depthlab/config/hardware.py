"""What this machine computes on, and what `auto` therefore means."""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from depthlab.config.schema import TrainerConfig
from depthlab.errors import InputError


@dataclass(frozen=True)
class Hardware:
    """The devices a run can use. `gpus` holds a name for each visible CUDA device, `gpu_uuids` what tells it apart."""

    cpu: str
    cpu_cores: int
    cpu_bf16: bool
    gpus: tuple[str, ...]
    gpu_bf16: bool
    mps: bool
    gpu_uuids: tuple[str, ...] = ()


def probe() -> Hardware:
    """Look at this machine. Imports torch, and opens a context on the first GPU where there is one."""
    import torch

    names = tuple(torch.cuda.get_device_name(idx) for idx in range(torch.cuda.device_count()))
    return Hardware(
        cpu=_cpu_name(),
        cpu_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_bf16=_cpu_has_bf16(),
        gpus=names,
        # Ampere and later; torch.cuda.is_bf16_supported() also says yes where bf16 is emulated.
        gpu_bf16=bool(names) and torch.cuda.get_device_capability(0)[0] >= 8,
        mps=torch.backends.mps.is_available(),
        gpu_uuids=tuple(str(torch.cuda.get_device_properties(idx).uuid) for idx in range(len(names))),
    )


def probe_in_subprocess() -> Hardware:
    """Look at this machine from a process of its own, so that the caller holds no GPU and imports no torch."""
    command = [sys.executable, "-P", "-m", "depthlab.config.hardware"]
    completed = subprocess.run(command, check=False, capture_output=True, text=True)
    if completed.returncode:
        said = completed.stderr.strip().splitlines()[-1:] or [f"exit code {completed.returncode}"]
        raise InputError(f"torch cannot say what this machine computes on: {said[0]}\nTry: {shlex.join(command)}")
    found = json.loads(completed.stdout.splitlines()[-1])
    return Hardware(**{**found, "gpus": tuple(found["gpus"]), "gpu_uuids": tuple(found["gpu_uuids"])})


def resolve(trainer: TrainerConfig, hardware: Hardware) -> TrainerConfig:
    """`trainer` with accelerator, number of processes and precision said outright.

    Raises:
        InputError: a device, a number of devices or a precision that this machine lacks.
    """
    accelerator = _accelerator(trainer.accelerator, hardware)
    devices = _devices(trainer.devices, accelerator, hardware)
    precision = _precision(trainer.precision, accelerator, hardware)
    return replace(trainer, accelerator=accelerator, devices=devices, precision=precision)


def device_name(accelerator: str, hardware: Hardware) -> str:
    """The device as a record names it, such as "cuda: NVIDIA H100 80GB HBM3"."""
    if accelerator == "gpu":
        return f"cuda: {hardware.gpus[0]}"
    return f"{accelerator}: {hardware.cpu}"


def use_threads(trainer: TrainerConfig, hardware: Hardware, recorded: int | None) -> int:
    """Set the number of CPU threads and return it.

    A continuation keeps its own number, on which the order of sums depends; without trainer.num_threads, what the
    variable OMP_NUM_THREADS says holds.
    """
    import torch

    share = max(1, hardware.cpu_cores // trainer.devices)  # each process of a run is on this machine
    asked = os.environ.get("OMP_NUM_THREADS", "")
    share = int(asked) if asked.isdigit() and int(asked) > 0 else share
    num_threads = recorded or trainer.num_threads or share
    torch.set_num_threads(num_threads)
    return num_threads


def peak_memory_mib(accelerator: str) -> float:
    """The most memory this process has held so far: tensors on a GPU, else all that was resident."""
    import torch

    if accelerator == "gpu":
        return float(torch.cuda.max_memory_allocated()) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _accelerator(asked: str, hardware: Hardware) -> str:
    if asked == "auto":
        return "gpu" if hardware.gpus else "mps" if hardware.mps else "cpu"
    if asked == "gpu" and not hardware.gpus:
        raise InputError("trainer.accelerator=gpu: torch sees no CUDA GPU here. Use trainer=auto or trainer=cpu.")
    if asked == "mps" and not hardware.mps:
        raise InputError("trainer.accelerator=mps: this is no Apple GPU. Use trainer=auto or trainer=cpu.")
    return asked


def _devices(asked: int, accelerator: str, hardware: Hardware) -> int:
    if accelerator != "gpu":
        if asked == -1:
            raise InputError(f"trainer.devices=-1: give a number of processes on {accelerator}.")
        return asked
    available = len(hardware.gpus)
    if asked > available:
        raise InputError(f"trainer.devices={asked}: there are {available} GPUs. Use trainer.devices=-1 for all.")
    return available if asked == -1 else asked


def _precision(asked: str, accelerator: str, hardware: Hardware) -> str:
    has_bf16 = {"gpu": hardware.gpu_bf16, "cpu": hardware.cpu_bf16, "mps": False}[accelerator]
    if asked == "auto":
        return "bf16-mixed" if has_bf16 else "32-true"
    if asked == "16-mixed" and accelerator != "gpu":
        raise InputError("trainer.precision=16-mixed: fp16 needs a GPU. Use bf16-mixed or 32-true.")
    if asked == "bf16-mixed" and not has_bf16:
        raise InputError("trainer.precision=bf16-mixed: this device has no native bf16. Use trainer.precision=32-true.")
    return asked


def _cpu_has_bf16() -> bool:
    # torch computes bf16 everywhere, slowly where the processor has no instructions for it.
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    print(json.dumps(asdict(probe())))
