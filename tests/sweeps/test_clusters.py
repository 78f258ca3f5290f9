"""Sweeps on Slurm, against a stub of its commands, and on Ray; each skips where its extra is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
from pathlib import Path

import pytest

from depthlab.config.commandline import check_names
from depthlab.errors import InputError

from ..conftest import ROOT, Command

TINY = ("data=digits", "model=resnet20", "model.depth=8", "trainer=cpu", "trainer.max_steps=2", "logger=csv")

# Keeps the script, says what sbatch says, and then runs each task of the array, one after the other.
SBATCH = """#!/bin/sh
here="$(dirname "$0")"
cp "$1" "$here/script.sh"
echo "$PYTHONPATH" > "$here/path.txt"
echo "Submitted batch job 12"
for task in 0 1; do
  export SLURM_JOB_ID=$((13 + task)) SLURM_ARRAY_JOB_ID=12 SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1
  export SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NODELIST=here
  bash "$here/script.sh"
done > "$here/tasks.log" 2>&1 < /dev/null &
"""
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do case "$1" in --output|--error) shift;; esac; shift; done
exec "$@"
"""
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder with stubs of Slurm's commands."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("submitit"), reason="the extra slurm is not installed")
def test_a_sweep_on_slurm_is_one_array_job_whose_tasks_are_runs(command: Command, slurm: Path, tmp_path: Path) -> None:
    path = f"{slurm}{os.pathsep}{os.environ['PATH']}"
    typed = ["train.py", *TINY, f"paths.log_dir={tmp_path / 'logs'}", "-m", "seed=1,2", "hydra/launcher=slurm"]
    done = command(*typed, PATH=path, fresh=True)
    logs = "\n".join(log.read_text() for log in slurm.glob("*.log"))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{logs}"
    script = (slurm / "script.sh").read_text()
    for line in ("--array=0-1", "--gpus-per-node=1", "--time=240", "--signal=USR2@120", "--job-name=runs"):
        assert line in script, script
    records = [json.loads(each.read_text()) for each in sorted(tmp_path.glob("logs/runs/*/record.json"))]
    assert [(record["status"], record["seed"]) for record in records] == [("finished", 1), ("finished", 2)]
    assert f"{tmp_path / 'logs' / 'runs' / 'sweep' / 'code-'}" in (slurm / "path.txt").read_text()
    assert not list(tmp_path.glob("logs/runs/sweep/code-*"))  # the sweep is done
    again = command(*typed, PATH=path, fresh=True)  # finished runs are skipped there too
    assert again.returncode == 0
    assert [json.loads(each.read_text()) for each in sorted(tmp_path.glob("logs/runs/*/record.json"))] == records


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="the extra ray is not installed")
def test_a_sweep_on_ray_runs_on_two_workers(command: Command, tmp_path: Path) -> None:
    takes = ("hydra.launcher.ray.remote.num_gpus=0", "hydra.launcher.ray.remote.num_cpus=1")
    local = ("hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2", *takes)
    typed = ["train.py", *TINY, f"paths.log_dir={tmp_path}", "-m", "seed=1,2", *local]
    done = command(*typed, timeout_seconds=500, fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ConfigStore" not in done.stderr
    records = [json.loads(each.read_text()) for each in sorted(tmp_path.glob("runs/*/record.json"))]
    assert [(record["status"], record["seed"]) for record in records] == [("finished", 1), ("finished", 2)]
    assert command(*typed, timeout_seconds=500).returncode == 0  # finished runs are skipped there too
    assert [json.loads(each.read_text()) for each in sorted(tmp_path.glob("runs/*/record.json"))] == records


@pytest.mark.parametrize(("launcher", "extra"), [("slurm", "slurm"), ("ray", "ray")])
def test_a_launcher_whose_extra_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, launcher: str, extra: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("submitit", "ray") else find(name))
    with pytest.raises(InputError, match=rf"pip install -e '\.\[{extra}\]'"):
        check_names([f"hydra/launcher={launcher}"], ROOT / "configs")
