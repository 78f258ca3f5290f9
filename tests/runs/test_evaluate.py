"""Results belong to the last weights, where other checkpoints lie beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from depthlab.config.check import check
from depthlab.records.checkpoints import list_checkpoints, load_checkpoint
from depthlab.records.record import read_record
from depthlab.runs.build import build_data
from depthlab.runs.evaluate import evaluate_run
from depthlab.runs.open_run import load_run
from depthlab.runs.run import run

from ..conftest import Compose


@pytest.fixture
def directory(compose_config: Compose) -> Path:
    """A run of 12 steps that leaves the checkpoints of steps 8 and 12."""
    small = ("model=resnet20", "model.depth=8", "trainer.precision=32-true", "checkpoint.every_steps=4")
    return run(compose_config(*small), "").directory


def loss_of(directory: Path, checkpoint: Path) -> float:
    """Of a checkpoint's weights, by a plain pass over the test images."""
    network, record = load_run(directory)
    network.load_state_dict(load_checkpoint(checkpoint)["network"])
    images, labels = build_data(check(record["config"])).on_device("test", torch.device("cpu")).eval_batch(0, 360)
    with torch.no_grad():
        return F.cross_entropy(network(images), labels).item()


def test_every_result_is_of_the_last_weights(directory: Path) -> None:
    last, before = list_checkpoints(directory)
    expected = loss_of(directory, last)
    assert loss_of(directory, before) != pytest.approx(expected, rel=1e-3)
    assert read_record(directory)["metrics"]["test/loss"] == pytest.approx(expected, rel=1e-5)
    assert evaluate_run(directory)["test/loss"] == read_record(directory)["metrics"]["test/loss"]
    weights = load_checkpoint(last)["network"]
    assert all(torch.equal(value, weights[name]) for name, value in load_run(directory)[0].state_dict().items())
