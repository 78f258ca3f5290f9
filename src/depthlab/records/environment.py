"""On what a run ran: the code's commit, the libraries' versions, the machine."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from depthlab import __version__

PLACE = Path(__file__).resolve().parents[2]  # the folder that this package is imported from
SNAPSHOT = "snapshot.json"  # there, if that folder is a snapshot of the code
MOST_OF_DIFF = 1_000_000  # characters
SOURCE = ("src", "configs", "scripts", "train.py")  # untracked files here may be part of what runs
# Of /proc/cpuinfo, the widest vectors first; the names are torch's.
INSTRUCTION_SETS = (("avx512f", "AVX512"), ("avx2", "AVX2"), ("asimd", "NEON"), ("neon", "NEON"))
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of the libraries that decide numbers."""
    found = {"python": platform.python_version(), "depthlab": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state(directory: Path | None = None) -> dict[str, Any]:
    """The commit of the code and whether the source differs from it; both None outside a git checkout.

    The source differs where a tracked file was changed, or where there is an untracked one among the source that git
    does not ignore. In a snapshot of the code it is what held when the snapshot was taken.
    """
    if directory is None and (launched := _launched()) is not None:
        return dict(launched["git"])
    try:
        root = directory or _checkout()
        commit = _git(root, "rev-parse", "HEAD").strip()
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no").strip() or _untracked(root))
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def source_diff(directory: Path | None = None) -> str:
    """How the files differ from their commit, as `git diff` shows it, untracked source included; "" where they do not.

    The source comes first, and what is longer than `MOST_OF_DIFF` is cut with a line that says so. In a snapshot of
    the code it is what held when the snapshot was taken.
    """
    if directory is None and (launched := _launched()) is not None:
        return str(launched["diff"])
    try:
        root = directory or _checkout()
        show = ("diff", "HEAD", "--no-color", "--no-ext-diff", "--")
        source = _git(root, *show, *SOURCE)
        others = _git(root, *show, ".", *(f":(exclude){name}" for name in SOURCE))
        text = source + "".join(_as_added(root, name) for name in _untracked(root)) + others
    except (OSError, subprocess.CalledProcessError):
        return ""
    if len(text) <= MOST_OF_DIFF:
        return text
    return f"{text[:MOST_OF_DIFF]}\n# cut here: the difference has {len(text):,} characters\n"


def _untracked(root: Path) -> list[str]:
    """Untracked files that may be part of what runs."""
    listed = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SOURCE)
    return [name for name in listed.split("\0") if name]


def _as_added(root: Path, name: str) -> str:
    """An untracked file as a difference that adds it; its name alone where it is no text, or too long."""
    head = f"diff --git a/{name} b/{name}\nnew file mode 100644\n"
    try:
        fits = (root / name).lstat().st_size <= MOST_OF_DIFF and not (root / name).is_symlink()
        text = (root / name).read_text(encoding="utf-8") if fits else "\0"
    except (OSError, UnicodeDecodeError):
        text = "\0"
    if "\0" in text:
        return f"{head}Binary files /dev/null and b/{name} differ\n"
    lines = text.split("\n")
    end = "" if lines[-1] == "" else "\\ No newline at end of file\n"
    lines = lines if end else lines[:-1]
    added = "".join(f"+{line}\n" for line in lines)
    return f"{head}--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{added}{end}" if lines else head


def _checkout() -> Path:
    """The clone around this file. An installed package has none, whatever repository its environment lies in."""
    if PLACE.name != "src":
        raise FileNotFoundError(PLACE)
    return PLACE.parent


def _launched() -> dict[str, Any] | None:
    """What a snapshot of the code, where this file is in one, says of the place it was taken from."""
    try:
        found: dict[str, Any] = json.loads((PLACE / SNAPSHOT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


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
    command = ["git", "-c", "core.quotepath=off", *arguments]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, encoding="utf-8", errors="replace")
    return done.stdout
