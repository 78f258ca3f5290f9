"""On what a run ran."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest
import torch

import depthlab
from depthlab.records import environment
from depthlab.records.environment import git_state, machine, source_diff, versions


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


def committed(tmp_path: Path) -> Path:
    """A checkout with one commit."""
    git(tmp_path, "init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "net.py").write_text("a = 1\n")
    (tmp_path / "notes.md").write_text("one\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def test_the_difference_to_the_commit_holds_untracked_source_and_can_be_applied(tmp_path: Path) -> None:
    root = committed(tmp_path)
    assert source_diff(root) == ""
    written = {"src/net.py": "a = 2\n", "src/new é.py": "b = 1", "src/empty.py": "", "notes.md": "two\n"}
    for name, text in written.items():
        (root / name).write_text(text)
    (root / "src" / "weights.bin").write_bytes(b"\0\1")
    (root / "private.txt").write_text("untracked, and no source")
    (root / "src" / "link.py").symlink_to(root / "private.txt")
    diff = source_diff(root)
    assert "Binary files /dev/null and b/src/weights.bin differ\n" in diff
    assert "no source" not in diff
    assert diff.index("b/src/net.py") < diff.index("b/notes.md")
    (root / "src" / "weights.bin").unlink()
    (root / "src" / "link.py").unlink()
    diff = source_diff(root)
    git(root, "stash", "-uq")
    (root / "code.diff").write_text(diff)
    git(root, "apply", "code.diff")
    assert {name: (root / name).read_text() for name in written} == written


def test_a_long_difference_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = committed(tmp_path)
    (root / "src" / "net.py").write_text("a = 2\n" * 1000)
    monkeypatch.setattr(environment, "MOST_OF_DIFF", 500)
    diff = source_diff(root)
    assert "\n# cut here: the difference has " in diff
    assert len(diff) < 600


def test_a_package_that_is_installed_in_somebodys_repository_is_of_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = committed(tmp_path) / "env" / "site-packages"
    monkeypatch.setattr(environment, "PLACE", site)
    assert git_state() == {"commit": None, "dirty": None}
    assert source_diff() == ""


def test_outside_a_checkout_nothing_is_known(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    assert git_state(tmp_path / "missing") == {"commit": None, "dirty": None}


def test_versions_are_those_that_are_imported() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["depthlab"] == depthlab.__version__  # of an editable install, the metadata may be old
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
