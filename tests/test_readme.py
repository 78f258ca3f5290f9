"""Every shell block of the README runs, with nothing changed but the length of the runs and their data."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

# What is added to a train.py line, and nothing else.
SHORTER = ("trainer.max_steps=2", "data=digits", "model.depth=8", "trainer.num_threads=1", "logger=csv")
BLOCK = re.compile(r"(?:<!-- shell: (?P<note>.*?) -->\n)?```sh\n(?P<lines>.*?)```", re.DOTALL)
BLOCKS = [
    (match["lines"].strip().splitlines(), match["note"]) for match in BLOCK.finditer((ROOT / "README.md").read_text())
]
LINES = [line for lines, _ in BLOCKS for line in lines]
TRAINING = [line for line in LINES if line.startswith("python train.py")]
# Each block that is not run here carries its reason in a comment above it, or is run elsewhere.
ELSEWHERE = {
    "bash scripts/quickstart.sh": "installs everything; run from a fresh clone, and its experiment in test_configs.py",
    "tensorboard --logdir logs": "a server that runs until it is stopped",
    "python scripts/evaluate.py run=logs/runs/digits-resnet20-seed1-...": "the directory's name ends in a hash",
    "python train.py model=resnet110 trainer=ddp trainer.devices=2": "two GPUs",
    "python train.py data=digits model=resnet20 trainer=ddp_cpu": "two processes; test_commandline.py runs them",
    "python train.py model=resnet56 -m seed=1,2,3 hydra/launcher=slurm hydra.launcher.partition=gpu "
    "hydra.launcher.timeout_min=240": "needs Slurm; tests/sweeps/test_clusters.py runs it against a stub",
    "python train.py model=resnet56 -m seed=1,2,3 hydra/launcher=ray hydra.launcher.ray.init.address=auto": "needs Ray",
    "bash scripts/test.sh": "runs this test",
    "bash scripts/test.sh fast": "runs this test",
}


def shortened(line: str) -> list[str]:
    words = shlex.split(line)[1:]
    if words[0] != "train.py":
        return words
    kept = [word for word in words if not word.startswith(("data=", "trainer.max_steps="))]
    # A sweep over networks cannot take a depth of its own beside them: their smallest twins do.
    is_sweep_of_models = any(word.startswith("model=") and "," in word for word in kept)
    return [*kept, *(extra for extra in SHORTER if not (is_sweep_of_models and extra.startswith("model.depth")))]


def test_every_line_is_run_or_says_why_not() -> None:
    known = {
        line for line in LINES if line.startswith(("python train.py", "python scripts/status", "python scripts/report"))
    }
    assert set(LINES) == known | set(ELSEWHERE)
    assert TRAINING
    for lines, note in BLOCKS:
        if any(line in ELSEWHERE for line in lines) and "quickstart" not in lines[0]:
            assert note, f"{lines} is not run and says no reason"


@pytest.mark.slow
def test_the_lines_run_one_after_the_other(tmp_path: Path) -> None:
    for folder in ("src", "configs", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "train.py", tmp_path)
    for line in [line for line in LINES if line not in ELSEWHERE]:
        done = subprocess.run(
            [sys.executable, *shortened(line)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_the_quickstart_block_is_the_script_that_exists() -> None:
    script = (ROOT / "scripts" / "quickstart.sh").read_text()
    assert "train.py -m experiment=quickstart" in script
    assert "scripts/report.py logs/quickstart" in script
