"""The recipes of CONTRIBUTING.md, executed literally: each file is written, and its command runs with fewer steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from depthlab.config.registry import groups
from depthlab.records.record import Record, find_records, read_record

from .conftest import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = [(match[1], match[2]) for match in BLOCK.finditer((ROOT / "CONTRIBUTING.md").read_text())]
FOLDER = "src/depthlab_extensions/"
# What is added to a command, and nothing else.
SHORTER = ("trainer=cpu", "trainer.num_threads=1", "trainer.max_steps=2", "trainer.val_every_steps=2")
# Runs each command line that it is given, in one process: a process for each would take minutes.
RUN_EACH = """
import json, sys
from depthlab.commands.train import train
for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["train.py"]
    if code := train(arguments):
        sys.exit(f"{arguments} ended with {code}")
"""
LIST = """
import json
from depthlab.config.registry import broken, groups, installed_extensions
found = {each.extension.name: [group.name, name]
         for group in groups().values() for name, each in group.components.items() if each.extension}
print(json.dumps([found, broken(), installed_extensions()]))
"""


class Recipe(NamedTuple):
    """A file, and the command line that uses it."""

    name: str
    text: str
    command: str


def recipes() -> list[Recipe]:
    """Each Python block that begins with the name of a file, with the first command below it."""
    found = []
    for idx, (language, text) in enumerate(BLOCKS):
        first = text.partition("\n")[0].removeprefix("# ")
        if language == "python" and first.startswith(FOLDER):
            below = next(text for language, text in BLOCKS[idx + 1 :] if language == "sh")
            found.append(Recipe(Path(first).stem, text, below.strip()))
    return found


RECIPES = recipes()


def block(language: str) -> str:
    """The only block in a language."""
    (found,) = [text for each, text in BLOCKS if each == language]
    return found


def shortened(command: str, logs: Path) -> list[str]:
    words = shlex.split(command)
    assert words[:2] == ["python", "train.py"]
    rest = words[2:]
    places = [*SHORTER, f"paths.log_dir={logs}"]
    split = rest.index("-m") if "-m" in rest else len(rest)
    return [*rest[:split], *places, *rest[split:]]


def python(*arguments: str, path: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Python with `path` before the project's own source."""
    found = os.pathsep.join([str(path), str(ROOT / "src")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": found},
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def listed(path: Path) -> tuple[dict[str, list[str]], dict[str, str], dict[str, str]]:
    """What extensions registered: their group and name; those that cannot be imported; versions."""
    done = python("-c", LIST, path=path)
    assert done.returncode == 0, done.stderr
    found: Any = tuple(json.loads(done.stdout))
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of all recipes. Whoever has followed one keeps the file, whose name is then taken."""
    taken = [recipe.name for recipe in RECIPES if (ROOT / FOLDER / f"{recipe.name}.py").exists()]
    if taken:
        pytest.skip(f"{FOLDER} holds {', '.join(taken)} already")
    folder = tmp_path_factory.mktemp("site")
    (folder / "depthlab_extensions").mkdir()
    for recipe in RECIPES:
        (folder / "depthlab_extensions" / f"{recipe.name}.py").write_text(recipe.text)
    return folder


def test_every_block_of_python_compiles() -> None:
    assert len([language for language, _ in BLOCKS if language == "python"]) > len(RECIPES) > 0
    for language, text in BLOCKS:
        if language == "python":
            compile(text, text.partition("\n")[0], "exec")


@pytest.mark.slow
def test_every_file_registers_its_component_and_every_group_has_a_recipe(site: Path) -> None:
    found, broken, _ = listed(site)
    used = {recipe.name: found[f"depthlab_extensions.{recipe.name}"] for recipe in RECIPES}
    assert not {f"depthlab_extensions.{name}" for name in used} & set(broken)
    assert {group for group, _ in used.values()} == set(groups())
    for recipe in RECIPES:
        group, name = used[recipe.name]
        assert re.search(rf"\b{group}[=.].*\b{name}\b", recipe.command), recipe.command


@pytest.mark.slow
def test_every_command_trains(site: Path, tmp_path: Path) -> None:
    lines = [shortened(recipe.command, tmp_path / recipe.name) for recipe in RECIPES]
    sweeps = [line for line in lines if "-m" in line]
    done = python("-c", RUN_EACH, path=site, text=json.dumps([line for line in lines if line not in sweeps]))
    assert done.returncode == 0, done.stdout + done.stderr
    for line in sweeps:
        done = python("train.py", *line, path=site)
        assert done.returncode == 0, done.stdout + done.stderr
    for recipe in RECIPES:
        for record in records(tmp_path / recipe.name):
            assert (record.status, record.steps) == ("finished", 2), recipe.name
            assert f"depthlab_extensions.{recipe.name}" in (record.extensions or {})
    check_traces(tmp_path)


def records(logs: Path) -> list[Record]:
    found = [read_record(directory) for directory in find_records(logs)]
    assert found, logs
    return found


def check_traces(logs: Path) -> None:
    """What the text says of the runs: two networks, columns, files."""
    assert sorted(record.config["model"]["depth"] for record in records(logs / "mixer")) == [2, 4]
    measured = records(logs / "calibration")[0].metrics
    assert len({measured[f"{split}/calibration"] for split in ("train", "val", "test")}) == 3  # each split by itself
    assert "test/within" in records(logs / "absolute_error")[0].metrics
    assert records(logs / "cutout")[0].config["augment"]["cutout"] == 3
    (curves,) = logs.glob("weight_norm/*/*/metrics.csv")
    assert "weight_norm" in curves.read_text().splitlines()[0].split(",")
    (log,) = logs.glob("text_log/*/*/log.txt")
    assert "2 train/loss " in log.read_text()


@pytest.mark.slow
def test_a_preset_of_a_component_is_a_file_of_yaml(site: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mixer_large.yaml").write_text(block("yaml"))
    overrides = ("data=digits", "model=mixer_large", "model.patch=2", "dry_run=true")
    done = python("train.py", "--config-dir", str(tmp_path), *overrides, path=site)
    assert done.returncode == 0, done.stderr
    assert "mixer12" in done.stdout


@pytest.mark.slow
def test_a_package_declares_entry_points(tmp_path: Path) -> None:
    project = tomllib.loads(block("toml"))["project"]
    points = project["entry-points"]["depthlab.extensions"]
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "__init__.py").touch()
    for recipe in RECIPES:
        if recipe.name in points:
            (tmp_path / "mylab" / f"{recipe.name}.py").write_text(recipe.text)
    info = tmp_path / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {module}" for name, module in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[depthlab.extensions]", *lines, ""]))
    _, broken, versions = listed(tmp_path)
    assert "mylab" not in broken
    assert versions["mylab"] == "1.2.0"
