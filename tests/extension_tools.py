"""The outside package of tests/extension, installed for processes that a test starts."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from .conftest import ROOT

SOURCE = ROOT / "tests" / "extension"


def install(folder: Path, *left_out: str) -> Path:
    """Put the package into `folder` as pip would: its modules, and the metadata that names its entry points.

    Without the entry points of `left_out`. The folder belongs on PYTHONPATH.
    """
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(SOURCE / "src" / "mylab", folder / "mylab", ignore=shutil.ignore_patterns("__pycache__"))
    info = folder / f"mylab-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mylab\nVersion: {project['version']}\n")
    points = project["entry-points"]["depthlab.extensions"]
    lines = [f"{name} = {module}" for name, module in points.items() if name not in left_out]
    (info / "entry_points.txt").write_text("\n".join(["[depthlab.extensions]", *lines, ""]))
    return folder
