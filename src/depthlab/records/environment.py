"""On what a run ran: the code's commit, the libraries' versions, the machine."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SOURCE = ("src", "configs", "scripts", "train.py")  # untracked files here may be part of what runs
# Of /proc/cpuinfo, the widest vectors first; the names are torch's.
INSTRUCTION_SETS = (("avx512f", "AVX512"), ("avx2", "AVX2"), ("asimd", "NEON"), ("neon", "NEON"))
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of the libraries that decide numbers."""
    found = {"python": platform.python_version()}
    for package in ("depthlab", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state(directory: Path | None = None) -> dict[str, Any]:
    """The commit of the code and whether the source differs from it; both None outside a git checkout.

    The source differs where a tracked file was changed, or where there is an untracked one among the source that git
    does not ignore.
    """
    root = directory or Path(__file__).resolve().parents[3]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        untracked = _git(root, "ls-files", "--others", "--exclude-standard", "--", *SOURCE)
        dirty = bool(changed or untracked)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


@cache
def machine() -> dict[str, str | None]:
    """The processor's model and widest vector instructions, the architecture and the operating system.

    On the processor depends which kernels compute a sum, and so the last digits of every number.
    """
    cpuinfo = _cpuinfo()
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    return {
        "cpu": cpuinfo.get("model name") or platform.processor() or None,
        "instruction_set": next((name for flag, name in INSTRUCTION_SETS if flag in flags), None),
        "architecture": platform.machine(),
        "os": f"{platform.system()} {platform.release()}",
    }


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor; nothing on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _git(root: Path, *arguments: str) -> str:
    completed = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return completed.stdout.strip()
