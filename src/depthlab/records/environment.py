"""On what a run ran: the code's commit, the libraries' versions, the machine."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
    """The commit of the code and whether files differ from it; both None outside a git checkout."""
    root = directory or Path(__file__).resolve().parents[3]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def _git(root: Path, *arguments: str) -> str:
    completed = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return completed.stdout.strip()
