"""A few trials of the scripts that kill runs and sweeps, and that they would see a difference."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from depthlab.records.checkpoints import list_checkpoints, save_checkpoint
from depthlab.runs.run import run

from .conftest import Command, Compose, load_script
from .whole_runs import SMALL

TRIALS = load_script("scripts/kill_trials.py")


@pytest.mark.slow
def test_killed_runs_end_like_whole_ones(command: Command) -> None:
    done = command("scripts/kill_trials.py", "2", "--seed", "1", "--steps", "60", fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 identical" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_sweep_ends_whole(command: Command) -> None:
    done = command("scripts/kill_sweep.py", "2", "--seed", "1", "--runs", "3", "--steps", "120", fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 runs finished after 2 kills" in done.stdout


def test_the_kills_follow_from_the_seed() -> None:
    first, again, other = (TRIALS.draw(9, 100, seed, ("32-true", "bf16-mixed")) for seed in (1, 1, 2))
    assert first == again != other
    assert {trial.precision for trial in first} == {"32-true", "bf16-mixed"}
    assert all(1 <= len(trial.kills) <= 3 for trial in first)


def test_a_run_equals_itself_and_any_other_weight_point_or_metric_is_a_difference(compose_config: Compose) -> None:
    whole, other = (run(compose_config(*SMALL, f"name={name}"), "").directory for name in ("a", "b"))
    assert TRIALS.differences(other, whole) == ()
    curve = (other / "metrics.csv").read_bytes()
    (other / "metrics.csv").write_bytes(curve + curve.splitlines(keepends=True)[-1])
    assert TRIALS.differences(other, whole) == ("metrics.csv",)
    (other / "metrics.csv").write_bytes(curve)
    change_a_weight(list_checkpoints(other)[0])
    assert TRIALS.differences(other, whole) == ("network",)
    record = (other / "record.json").read_text()
    (other / "record.json").write_text(record.replace('"train/loss"', '"train/lost"'))
    assert "metrics" in TRIALS.differences(other, whole)


def change_a_weight(path: Path) -> None:
    content: dict[str, Any] = copy.deepcopy(torch.load(path, weights_only=True))
    weight = content["network"]["fc.weight"].view(-1)
    weight[0] = torch.nextafter(weight[0], weight[0] + 1)
    save_checkpoint(path.parent.parent, content["step"], content)
