"""Every shell block of the README runs, with nothing changed but the length of the runs and their data."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from .conftest import ROOT
from .warm import Warm

# What is added to a line that trains, and nothing else.
SHORTER = ("trainer.max_steps=2", "trainer.num_threads=1", "logger=csv")
WITHOUT_DOWNLOAD = ("data=digits", "data=noisy_digits")
WITHOUT_DEPTH = "model=all_conv"
BLOCK = re.compile(r"(?:<!-- shell: (?P<note>.*?) -->\n)?```sh\n(?P<lines>.*?)```", re.DOTALL)
BLOCKS = [
    (match["lines"].strip().splitlines(), match["note"]) for match in BLOCK.finditer((ROOT / "README.md").read_text())
]
LINES = [line for lines, _ in BLOCKS for line in lines]
TRAINING = [line for line in LINES if line.startswith(("python train.py", "python -m depthlab train"))]
# Blocks that begin with the name of a file are that file.
FILES = {
    match[1]: match[2]
    for match in re.finditer(r"```(?:python|yaml)\n# (\S+/\S+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
}
# Each block that is not run here carries its reason in a comment above it, or is run elsewhere.
ELSEWHERE = {
    "bash scripts/quickstart.sh": "installs everything; run from a fresh clone, and its experiment in test_configs.py",
    "python train.py -m hydra/sweeper=search data=digits model=plain20 trainer.max_steps=440 "
    "schedule.scale_to_max_steps=true 'optimizer.lr=interval(1e-3,1)' search.trials=50": "150 runs; see the note",
    "python -m depthlab extend run=logs/runs/digits-resnet20-seed1-... trainer.max_steps=128000": "a hash, as above",
    "tensorboard --logdir logs": "a server that runs until it is stopped",
    "python scripts/evaluate.py run=logs/runs/digits-resnet20-seed1-...": "the directory's name ends in a hash",
    "python -m depthlab evaluate run=logs/runs/digits-resnet20-seed1-... "
    "ensemble=logs/runs/digits-resnet20-seed2-...": "likewise; tests/runs/test_evaluate.py runs such a line",
    "python -m depthlab predict run=logs/runs/digits-resnet20-seed1-... images=pictures out=predictions.csv": (
        "likewise; tests/runs/test_open_run.py runs such a line"
    ),
    "python -m depthlab export run=logs/runs/digits-resnet20-seed1-... format=onnx int8=static": (
        "likewise; tests/runs/test_export.py runs such a line"
    ),
    "python train.py model=resnet110 trainer=ddp trainer.devices=2": "two GPUs",
    "python train.py data=digits model=resnet20 trainer=ddp_cpu": "two processes; test_commandline.py runs them",
    "python train.py model=resnet56 -m seed=1,2,3 hydra/launcher=slurm hydra.launcher.partition=gpu "
    "hydra.launcher.timeout_min=240": "needs Slurm; tests/sweeps/test_clusters.py runs it against a stub",
    "python train.py model=resnet56 -m seed=1,2,3 hydra/launcher=ray hydra.launcher.ray.init.address=auto": "needs Ray",
    "python scripts/first_contact.py": "needs a GPU; test_benchmark.py runs the small form",
    "python train.py --config-dir logs/first_contact -m experiment=cifar10_depth trainer=measured seed=1": "a GPU",
    "python scripts/publish.py logs/cifar10_depth": "publishes what the line before has trained",
    "python scripts/benchmark.py gpu --variant captured trainer.steps_per_replay=50 --variant both "
    "trainer.steps_per_replay=50 trainer.compile=true --out results/benchmarks/gpu.json": "needs a GPU",
    "python scripts/update_readme.py": "takes in what the lines before have measured",
    "bash scripts/test.sh": "runs this test",
    "bash scripts/test.sh fast": "runs this test",
}


def shortened(line: str) -> list[str]:
    words = shlex.split(line)[1:]
    if line not in TRAINING:
        return words
    kept = [word for word in words if word in WITHOUT_DOWNLOAD or not word.startswith(("data=", "trainer.max_steps="))]
    added = [*SHORTER, *(["data=digits"] if not set(kept) & set(WITHOUT_DOWNLOAD) else [])]
    # A sweep over networks cannot take a depth of its own beside them: their smallest twins do.
    is_sweep_of_models = any(word.startswith("model=") and "," in word for word in kept)
    return [*kept, *added, *([] if is_sweep_of_models or WITHOUT_DEPTH in kept else ["model.depth=8"])]


def test_every_line_is_run_or_says_why_not() -> None:
    known = {line for line in LINES if line.startswith(("python scripts/status", "python scripts/report"))}
    assert set(LINES) == {*known, *TRAINING, *ELSEWHERE}
    assert TRAINING
    for lines, note in BLOCKS:
        if any(line in ELSEWHERE for line in lines) and "quickstart" not in lines[0]:
            assert note, f"{lines} is not run and says no reason"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_lines_run_one_after_the_other(tmp_path: Path) -> None:
    for folder in ("src", "configs", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "train.py", tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    with closing(Warm(environment)) as python:
        for line in [line for line in LINES if line not in ELSEWHERE]:
            done = python.run(shortened(line), tmp_path, environment, tmp_path, timeout_seconds=300)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_files_of_the_readme_are_those_that_its_lines_use() -> None:
    assert set(FILES) == {"mine/experiment/narrow.yaml", "src/depthlab_extensions/all_conv.py"}
    assert any("--config-dir mine -m experiment=narrow" in line for line in TRAINING)
    assert any(WITHOUT_DEPTH in line for line in TRAINING)


def test_every_experiment_is_named() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "configs" / "experiment").glob("*.yaml"):
        assert f"`{path.stem}`" in readme, path.stem


def test_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text()):
            assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_quickstart_block_is_the_script_that_exists() -> None:
    script = (ROOT / "scripts" / "quickstart.sh").read_text()
    assert "train.py -m experiment=quickstart" in script
    assert "scripts/report.py logs/quickstart" in script
