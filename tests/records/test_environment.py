"""On what a run ran."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from depthlab.records.environment import git_state, machine, versions


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "untracked").touch()
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "new.py").touch()  # untracked source may be part of what runs
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    (tmp_path / "src" / "new.py").rename(tmp_path / "src" / "new.pyc")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_outside_a_checkout_nothing_is_known(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    assert git_state(tmp_path / "missing") == {"commit": None, "dirty": None}


def test_versions_are_those_that_are_imported() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert torch.__version__.startswith(found["torch"])
    assert {"lightning", "hydra-core", "omegaconf", "numpy", "torchvision", "torchmetrics"} <= found.keys()


def test_the_machine_is_named_by_its_processor_and_system() -> None:
    found = machine()
    assert found["architecture"] == platform.machine()
    assert platform.system() in str(found["os"])
    assert platform.node() not in str(found)
    if Path("/proc/cpuinfo").exists() and platform.machine() == "x86_64":
        assert found["cpu"]
        # torch may be told to use less than there is, and calls AMX and VNNI by names of their own
        assert torch.backends.cpu.get_cpu_capability() in (found["instruction_set"], "DEFAULT", "AVX2", "AVX512")
