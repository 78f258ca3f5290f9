"""Ten steps of training give the weights that they have always given, bit for bit.

The last digits depend on the processor, which decides about kernels and their blocks. So the golden weights are those
that commit 57277ca gives on each processor listed; on another one they say nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from depthlab.records.checkpoints import load_newest
from depthlab.records.environment import machine
from depthlab.runs.run import run

from .conftest import Compose, slowly

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden.json").read_text())
SETTINGS = ("trainer.precision=32-true", "trainer.max_steps=10", "trainer.val_every_steps=5", "logger.every_steps=5")


def digest(state: dict[str, torch.Tensor]) -> str:
    """The SHA-256 of names and values, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode())
        found.update(state[name].contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("model", [name for name in GOLDEN["runs"] if name != "resnet56"] + slowly("resnet56"))
def test_the_weights_after_ten_steps_are_the_golden_ones(compose_config: Compose, model: str) -> None:
    here = {"torch": torch.__version__, "instruction_set": torch.backends.cpu.get_cpu_capability()}
    for name, value in here.items():
        if value != GOLDEN[name]:
            pytest.skip(f"the golden weights are those of {name} {GOLDEN[name]}; here it is {value}")
    expected = GOLDEN["runs"][model]
    processor = machine()["cpu"]
    if processor not in expected["sha256"]:
        pytest.skip(f"the golden weights are those of {', '.join(expected['sha256'])}; here is {processor}")
    outcome = run(compose_config(f"model={model}", *SETTINGS), "")
    assert outcome.directory.name == expected["directory"]
    checkpoint = load_newest(outcome.directory, False)
    assert checkpoint is not None
    assert digest(checkpoint["network"]) == expected["sha256"][processor]


def test_the_golden_file_covers_the_shallow_and_the_deep() -> None:
    assert {*GOLDEN["runs"]} == {"resnet20", "plain20", "resnet56"}
