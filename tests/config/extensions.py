"""Extensions as files on a path, and what a fresh process with them answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HEAD = """
from __future__ import annotations
from dataclasses import dataclass, field
from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.models.spec import ModelSpec
from depthlab.optim.spec import ScheduleSpec
from depthlab.training.spec import CallbackSpec, LoggerSpec
"""
TRIANGLE = """
@register("schedule", "triangle")
@dataclass(frozen=True)
class Triangle(ScheduleSpec):
    summit: float = key(0.5, positive=True, below=1, help="where the rate is highest, as a part of the run")
"""
REPORT = """
from depthlab.config.registry import broken, components, groups, installed_extensions, lookup
from depthlab.errors import InputError

def answer(group, name):
    try:
        return lookup(group, name).__name__
    except InputError as error:
        return str(error)
"""


def write_namespace(root: Path, **sources: str) -> Path:
    """`root` with a module for each source in the namespace package depthlab_extensions."""
    folder = root / "depthlab_extensions"
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(HEAD + source)
    return root


def write_distribution(root: Path, name: str, version: str, points: dict[str, str], **sources: str) -> Path:
    """`root` with an installed distribution: a package, and the .dist-info folder with its entry points."""
    (root / name).mkdir(parents=True)
    (root / name / "__init__.py").write_text("")
    for module, source in sources.items():
        (root / name / f"{module}.py").write_text(HEAD + source)
    info = root / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = "\n".join(f"{point} = {module}" for point, module in points.items())
    (info / "entry_points.txt").write_text(f"[depthlab.extensions]\n{lines}\n")
    return root


def ask(places: list[Path], code: str) -> str:
    """What a fresh process prints that has these places on its path; a traceback fails the test."""
    path = os.pathsep.join([*map(str, places), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", REPORT + code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
