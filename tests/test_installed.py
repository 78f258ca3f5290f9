"""The wheel alone, in an empty folder: the command trains, sweeps and reports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT
from .whole_runs import install

TINY = ("model.depth=8", "trainer=cpu", "trainer.num_threads=1", "logger=csv", "data.batch_size=32")
SOURCES = ("src", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders in its source."""
    pytest.importorskip("setuptools")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(target))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, capture_output=True)
    (path,) = target.glob("depthlab-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs, and nothing of the clone."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--quiet", "--target", str(folder))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True, capture_output=True)
    return folder


def call(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in `cwd`, with the installed package before an editable one."""
    cwd.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
def test_the_wheel_holds_every_configuration_file_and_the_benchmark(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"depthlab/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert wanted <= held
    assert {"depthlab_benchmarks/__main__.py", "hydra_plugins/depthlab_pool.py", "depthlab/py.typed"} <= held


@pytest.mark.slow
def test_the_installed_command_trains_and_reports_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    cwd, depthlab = tmp_path / "empty", str(installed / "bin" / "depthlab")
    done = call(installed, cwd, depthlab, "train", "data=digits", "model=plain20", "trainer.max_steps=20", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = cwd.glob("logs/runs/*/record.json")
    record = json.loads(path.read_text())
    assert (record["status"], record["steps"]) == ("finished", 20)
    assert record["command"].startswith("depthlab train data=digits model=plain20 trainer.max_steps=20")
    done = call(installed, cwd, depthlab, "report", "logs/runs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (cwd / "logs/runs/report/report.html").is_file()
    assert "finished" in call(installed, cwd, depthlab, "status", "logs").stdout
    assert {each.name for each in cwd.iterdir()} == {"logs"}


@pytest.mark.slow
def test_jobs_of_a_sweep_run_from_the_wheel_too(installed: Path, tmp_path: Path) -> None:
    typed = ("-m", "depthlab", "train", "data=digits", "trainer.max_steps=2", *TINY, "-m", "seed=1,2")
    done = call(installed, tmp_path / "empty", sys.executable, *typed)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("empty/logs/runs/*/record.json"))]
    assert [record["seed"] for record in records] == [1, 2]
    assert all(record["command"].startswith("python -m depthlab train data=digits ") for record in records)


@pytest.mark.slow
def test_an_outside_package_works_beside_the_wheel(installed: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(installed, site)
    install(site)
    words = ("data=stripes", "model=mixer", "optimizer=lion", "callbacks=update_counter", "trainer.max_steps=6")
    short = ("trainer=cpu", "trainer.num_threads=1", "logger=csv", "trainer.val_every_steps=3")
    done = call(site, tmp_path / "empty", str(site / "bin" / "depthlab"), "train", *words, *short)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "empty").glob("logs/runs/stripes-*/record.json")
    assert json.loads(path.read_text())["extensions"] == {"mylab": "1.2.0"}


@pytest.mark.parametrize(
    "command", ["report", "status", "evaluate", "publish", "show_batch", "data", "diagnose", "explain"]
)
def test_help_of_each_command_imports_no_heavy_library(command: str, tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "heavy = {'torch', 'lightning', 'hydra', 'matplotlib', 'scipy', 'sklearn'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules))))\n"
        f"sys.argv = ['depthlab', '{command}', '--help']\n"
        "from depthlab.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert f"depthlab {command}" in done.stdout


@pytest.mark.parametrize("line", ["depthlab train", "python -m depthlab train", "python train.py"])
def test_the_shell_completes_the_words_after_the_command(line: str) -> None:
    call = [sys.executable, *(["train.py"] if line.endswith(".py") else ["-m", "depthlab"]), "-sc", "query=bash"]
    environment = {**os.environ, "COMP_LINE": f"{line} seed=2 model=resnet1"}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"model=resnet18", "model=resnet110"} <= set(done.stdout.split())


def test_a_command_that_does_not_exist_is_answered_with_the_list(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "depthlab", "trian"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: trian: no such command.") and "  train " in done.stderr
