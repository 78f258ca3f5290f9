"""Short trainings on the real data sets, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from depthlab.runs.export import export
from depthlab.runs.open_run import open_run

from .conftest import Command

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def train(command: Command, tmp_path: Path, data_dir: Path, *overrides: str) -> dict[str, Any]:
    """Train a residual network of 8 layers, measure it again, and return its record."""
    network = ("model=resnet20", "model.depth=8", "trainer.num_threads=1")
    typed = ("train.py", *network, "schedule=cosine", f"paths.log_dir={tmp_path}", *overrides)
    done = command(*typed, DEPTHLAB_DATA_DIR=str(data_dir), timeout_seconds=900)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip(), "a normal run warns of nothing"
    (path,) = tmp_path.rglob("record.json")
    record: dict[str, Any] = json.loads(path.read_text())
    repeated = command(
        "scripts/evaluate.py", f"run={path.parent}", DEPTHLAB_DATA_DIR=str(data_dir), timeout_seconds=300
    )
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    check_predictions(path.parent, record)
    return record


def check_predictions(directory: Path, record: dict[str, Any]) -> None:
    """One object gives the recorded error to the digit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(record["num_threads"])
    opened = open_run(directory)
    images, labels, _ = opened.data("test")
    assert opened.predict(images).error(labels) == record["metrics"]["test/err"]
    torch.set_num_threads(threads)


def check_export(directory: Path) -> None:
    """ONNX gives the same answers as PyTorch on the whole test set."""
    exports = directory / "exports"
    exports.mkdir()
    eager, exact = export(open_run(directory), exports, "onnx")
    assert exact.err == eager.err
    assert exact.difference is not None
    assert exact.difference < 1e-4


def test_three_hundred_steps_on_mnist_end_below_three_percent(command: Command, tmp_path: Path, data_dir: Path) -> None:
    record = train(command, tmp_path, data_dir, "data=mnist", "trainer.max_steps=300")
    assert record["metrics"]["test/err"] < 3
    assert [record["data"][f"num_{split}"] for split in ("train", "val", "test")] == [55_000, 5_000, 10_000]


def test_a_hundred_and_twenty_steps_on_cifar10_learn_something(
    command: Command, tmp_path: Path, data_dir: Path
) -> None:
    record = train(command, tmp_path, data_dir, "data=cifar10", "trainer.max_steps=120")
    assert record["metrics"]["test/err"] < 65  # 90 is chance
    check_export(next(tmp_path.rglob("record.json")).parent)
    assert [record["data"][f"num_{split}"] for split in ("train", "val", "test")] == [45_000, 5_000, 10_000]
