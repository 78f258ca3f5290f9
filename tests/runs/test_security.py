"""Nothing that comes from a stranger runs: not a configuration, not a checkpoint, not a run's directory."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from depthlab.config.check import check
from depthlab.errors import InputError
from depthlab.records.checkpoints import list_checkpoints
from depthlab.runs.evaluate import evaluate_run, load_run
from depthlab.runs.run import run

from ..conftest import ROOT, Compose, compose_tree
from ..records.test_checkpoints import Trap, sign
from ..whole_runs import SMALL

SOURCES = [ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "src").rglob("*.py"))]
# Inside torchvision: to allow a package by its name would allow this.
TARGET = "torchvision.datasets.utils.os.system"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What os.system was asked to do."""
    asked: list[Any] = []
    monkeypatch.setattr(os, "system", asked.append)
    return asked


@pytest.mark.parametrize("group", ["model", "data", "optimizer", "schedule", "trainer", "logger", "checkpoint", ""])
@pytest.mark.parametrize("key", ["_target_", "command"])
def test_a_configuration_cannot_name_code(group: str, key: str, told: list[Any]) -> None:
    tree: dict[str, Any] = compose_tree("data=digits")
    (tree[group] if group else tree)[key] = TARGET
    with pytest.raises(InputError, match=f"{key}={TARGET}"):
        check(tree)
    assert told == []


@pytest.mark.parametrize("kind", ["link", "FIFO"])
def test_a_run_writes_its_configuration_into_its_own_directory(
    compose_config: Compose, tmp_path: Path, kind: str
) -> None:
    words, private = (*SMALL, "trainer.max_steps=1"), tmp_path / "private"
    private.write_text("text")
    path = run(compose_config(*words, "dry_run=true"), "").directory / "config.yaml"
    path.parent.mkdir(parents=True)
    path.symlink_to(private) if kind == "link" else os.mkfifo(path)
    run(compose_config(*words), "")
    assert private.read_text() == "text"
    assert path.is_file() and not path.is_symlink()


@pytest.mark.parametrize("key", ["family", "name"])
@pytest.mark.parametrize("use", [load_run, evaluate_run])
def test_a_strangers_run_directory_executes_nothing(
    compose_config: Compose, told: list[Any], use: Any, key: str
) -> None:
    directory = run(compose_config(*SMALL, "trainer.max_steps=1"), "").directory
    path = directory / "record.json"
    record = json.loads(path.read_text())
    for group in ("model", "data", "optimizer"):
        record["config"][group] = {**record["config"][group], "_target_": TARGET, "command": "touch sprung"}
    record["config"]["model"][key] = TARGET
    path.write_text(json.dumps(record))
    with pytest.raises(InputError):
        use(directory)
    assert told == []


def test_a_strangers_checkpoint_executes_nothing(compose_config: Compose, tmp_path: Path) -> None:
    directory = run(compose_config(*SMALL, "trainer.max_steps=1"), "").directory
    path = list_checkpoints(directory)[0]
    torch.save({"step": 1, "network": {}, "log": Trap(tmp_path / "sprung")}, path)
    sign(path)
    with pytest.raises(InputError, match="not a checkpoint"):
        load_run(directory)
    assert not (tmp_path / "sprung").exists()


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    if path.name == "sources.py":  # CIFAR's own files are pickles; tests/data has it that their MD5 is checked before
        imported.discard("pickle")
    assert not imported & {"pickle", "cloudpickle", "joblib", "marshal", "shelve", "hydra.utils"}
    for call in calls(tree):
        name, options = ast.unparse(call.func), {option.arg: ast.unparse(option.value) for option in call.keywords}
        if name == "torch.load":
            assert options["weights_only"] == "True"
        if name == "np.load":
            assert options["allow_pickle"] == "False"
        assert name not in ("eval", "exec", "compile", "os.system")


def test_dashboards_are_reached_from_this_machine_only() -> None:
    # TensorBoard binds to localhost unless it is told otherwise; nothing here tells it, and nothing else listens.
    for path in [*SOURCES, *sorted((ROOT / "scripts").glob("*.sh")), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("--bind_all", "--host", "0.0.0.0", "HTTPServer", "socket.bind")), path
