"""The committed copy of a run: small, and without a word about where anything lay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from depthlab.errors import InputError
from depthlab.records.curve_file import read_curves
from depthlab.records.publishing import publish
from depthlab.records.record import read_record, write_record

from ..report.synthetic import write_diagnostics, write_run

COMMANDS = [
    ("python train.py model=resnet20 -m seed=1,2", "python train.py model=resnet20 -m seed=1,2"),
    ("python /home/anna/depthlab/train.py seed=1", "python train.py seed=1"),
    ("python train.py paths.log_dir=/home/anna/logs seed=1", "python train.py seed=1"),
    ("python train.py ++paths.data_dir=/home/anna/d seed=1", "python train.py seed=1"),
    ("python train.py 'paths.data_dir=/home/anna/my data' seed=1", "python train.py seed=1"),
    ("python train.py 'data.folder=/home/anna/my flowers'", "python train.py 'data.folder=my flowers'"),
    ("python train.py model.weights=logs/pretrain/run-1", "python train.py model.weights=run-1"),
    ("python train.py hydra.sweep.dir=/home/x hydra/launcher=pool", "python train.py hydra/launcher=pool"),
]


@pytest.mark.parametrize(("typed", "published"), COMMANDS)
def test_a_command_names_no_place(tmp_path: Path, typed: str, published: str) -> None:
    write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, record={"command": typed}, points=2)
    (copy,) = publish(tmp_path / "logs", tmp_path / "results")
    assert read_record(copy).command == published


def test_long_curves_are_thinned_and_the_record_says_so(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=5000)
    (copy,) = publish(tmp_path / "logs", tmp_path / "results")
    curve, thinned = read_curves(directory)["train/err"], read_curves(copy)["train/err"]
    assert len(curve) == 5000
    assert len(thinned) <= 2000
    assert thinned[-1] == curve[-1]
    assert set(thinned) <= set(curve)
    assert read_record(copy).published["points_before"]["train/err"] == 5000


def test_only_what_ended_is_published_and_nothing_is_replaced_by_other_numbers(tmp_path: Path) -> None:
    write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, record={"status": "running"}, points=2)
    with pytest.raises(InputError, match="holds no finished run"):
        publish(tmp_path / "logs", tmp_path / "results")
    directory = write_run(tmp_path / "logs", "plain20", 2, 1.0, 9.0, points=2)
    write_diagnostics(directory, 20, False, 2)
    (copy,) = publish(tmp_path / "logs", tmp_path / "results")
    assert publish(tmp_path / "logs", tmp_path / "results") == [copy]
    record = read_record(directory)
    write_record(directory, replace(record, metrics={**record.metrics, "test/err": 1.0}))
    with pytest.raises(InputError, match="holds other results of this run"):
        publish(tmp_path / "logs", tmp_path / "results")
    assert read_record(copy).metrics["test/err"] == 9.0
