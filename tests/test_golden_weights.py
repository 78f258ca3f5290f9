"""Ten steps of training give the weights that they have always given, bit for bit.

The last digits depend on the processor, which decides about kernels and their blocks. So the golden weights are those
that commit 57277ca gives on each processor listed; on another one they say nothing.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from depthlab.records import environment
from depthlab.records.checkpoints import load_newest
from depthlab.runs.run import run

from .conftest import Compose, slowly

GOLDEN: dict[str, Any] = {
    "torch": "2.15.0+cu132",
    "instruction_set": "AVX512",
    "runs": {
        "resnet20": {
            "directory": "digits-resnet20-seed1-23a569e1",
            "sha256": {
                "Intel(R) Xeon(R) Processor": "8062f4cd5a5c9f6906089d723f9f214de24d68dce729c74b7e5e337214599074",
                "AMD EPYC, family 25, model 17": "54f39e5b7bead441215ba85482cba2653cdc056c1d4a3e8485823cc00c0aa10a",
            },
        },
        "plain20": {
            "directory": "digits-plain20-seed1-c2fc698c",
            "sha256": {
                "Intel(R) Xeon(R) Processor": "ba25b05ea5c295a24aebb884141cc5ce2f8eae24f4d4312d91086723c5a8e645",
                "AMD EPYC, family 25, model 17": "5a9378e20e87f08504d7aaea5b542e7d721532c538f9d1c32191d285ce7c7350",
            },
        },
        "resnet56": {
            "directory": "digits-resnet56-seed1-f342ca68",
            "sha256": {
                "Intel(R) Xeon(R) Processor": "3f98ce48e7497c313499d7d0c66e9654efe08a2a3c6f0a1344f091fadb436cc3",
                "AMD EPYC, family 25, model 17": "4da1c77918b89602ea920c614652c9e7775e4f6a29037cbaf9d939da5c38a757",
            },
        },
    },
}
SETTINGS = ("trainer.precision=32-true", "trainer.max_steps=10", "trainer.val_every_steps=5", "logger.every_steps=5")


def digest(state: dict[str, torch.Tensor]) -> str:
    """The SHA-256 of names and values, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode())
        found.update(state[name].contiguous().numpy().tobytes())
    return found.hexdigest()


def processor_names() -> tuple[str, str]:
    """The name of the processor, which several may share, and the same with its family and model."""
    cpuinfo = environment._cpuinfo()
    name = cpuinfo.get("model name", "unknown")
    return name, f"{name}, family {cpuinfo.get('cpu family')}, model {cpuinfo.get('model')}"


@pytest.mark.parametrize("model", [name for name in GOLDEN["runs"] if name != "resnet56"] + slowly("resnet56"))
def test_the_weights_after_ten_steps_are_the_golden_ones(compose_config: Compose, model: str) -> None:
    here = {"torch": torch.__version__, "instruction_set": torch.backends.cpu.get_cpu_capability()}
    for name, value in here.items():
        if value != GOLDEN[name]:
            pytest.skip(f"the golden weights are those of {name} {GOLDEN[name]}; here it is {value}")
    expected = GOLDEN["runs"][model]
    processor = next((name for name in processor_names() if name in expected["sha256"]), None)
    if processor is None:
        pytest.skip(f"the golden weights are those of {'; '.join(expected['sha256'])}. Here is {processor_names()[1]}")
    outcome = run(compose_config(f"model={model}", *SETTINGS), "")
    assert outcome.directory.name == expected["directory"]
    checkpoint = load_newest(outcome.directory, False)
    assert checkpoint is not None
    assert digest(checkpoint["network"]) == expected["sha256"][processor]


def test_the_golden_file_covers_the_shallow_and_the_deep() -> None:
    assert {*GOLDEN["runs"]} == {"resnet20", "plain20", "resnet56"}
