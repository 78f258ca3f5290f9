"""What tests of whole runs share: reading results, comparing them bit for bit, cutting runs short, outside packages."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from depthlab.records.checkpoints import list_checkpoints, load_checkpoint
from depthlab.records.record import read_record
from depthlab.training.callbacks.checkpointing import Checkpoints
from depthlab.training.module import SupervisedModule

from .conftest import ROOT

SMALL = ("model=resnet20", "model.depth=8")


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(list_checkpoints(directory)[0])["network"])


def same_weights(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def results(directory: Path) -> tuple[dict[str, Any], str]:
    return read_record(directory)["metrics"], (directory / "metrics.csv").read_text()


def allow_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in bf16 also where the processor only emulates it."""
    monkeypatch.setattr("depthlab.config.hardware._cpu_has_bf16", lambda: True)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the run that follows believe that it was asked to stop at `step`."""
    decide = Checkpoints._save_if_due

    def save_if_due(self: Checkpoints, trainer: Trainer, module: SupervisedModule) -> None:
        self.stop.is_made = module.step >= step
        decide(self, trainer, module)

    monkeypatch.setattr(Checkpoints, "_save_if_due", save_if_due)


def forget_the_end(directory: Path, step: int) -> None:
    """Leave what a kill shortly before the end would: the checkpoint of `step`, and rows beyond it."""
    for path in list_checkpoints(directory):
        if path.name != f"step-{step:08d}.ckpt":
            path.unlink()
    set_status(directory, "running")


def set_status(directory: Path, status: str) -> None:
    record = json.loads((directory / "record.json").read_text())
    record["status"] = status
    (directory / "record.json").write_text(json.dumps(record))


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
