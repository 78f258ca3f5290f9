"""What `auto` means on each kind of machine, and what is refused where it is not there."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from depthlab.config.check import check
from depthlab.config.hardware import Hardware, device_name, probe, probe_in_subprocess, resolve, use_threads
from depthlab.config.schema import TrainerConfig
from depthlab.errors import InputError

from ..conftest import compose_tree

CPU = Hardware(cpu="Old", cpu_cores=4, cpu_bf16=False, gpus=(), gpu_bf16=False, mps=False)
NEW_CPU = replace(CPU, cpu_bf16=True)
GPU = replace(CPU, gpus=("H100", "H100"), gpu_bf16=True)
OLD_GPU = replace(NEW_CPU, gpus=("V100",))
MAC = replace(CPU, mps=True)


def asked(**changes: Any) -> TrainerConfig:
    return replace(check(compose_tree()).trainer, **changes)


@pytest.mark.parametrize(
    ("hardware", "accelerator", "precision"),
    [
        (CPU, "cpu", "32-true"),
        (NEW_CPU, "cpu", "bf16-mixed"),
        (GPU, "gpu", "bf16-mixed"),
        (OLD_GPU, "gpu", "32-true"),
        (MAC, "mps", "32-true"),
    ],
)
def test_auto_is_the_best_there_is(hardware: Hardware, accelerator: str, precision: str) -> None:
    trainer = resolve(asked(), hardware)
    assert (trainer.accelerator, trainer.precision, trainer.devices) == (accelerator, precision, 1)
    again = resolve(trainer, hardware)
    assert again == trainer


def test_only_accelerator_devices_and_precision_are_resolved() -> None:
    before = asked(max_steps=77, num_threads=3)
    after = resolve(before, GPU)
    assert replace(after, accelerator="auto", precision="auto") == before


@pytest.mark.parametrize(("devices", "expected"), [(-1, 2), (1, 1), (2, 2)])
def test_minus_one_is_every_gpu(devices: int, expected: int) -> None:
    assert resolve(asked(accelerator="gpu", strategy="ddp", devices=devices), GPU).devices == expected


def test_the_cpu_runs_as_many_processes_as_asked() -> None:
    assert resolve(asked(accelerator="cpu", strategy="ddp", devices=3), CPU).devices == 3


@pytest.mark.parametrize(
    ("changes", "hardware", "message"),
    [
        ({"accelerator": "gpu"}, CPU, r"trainer\.accelerator=gpu.*trainer=cpu"),
        ({"accelerator": "mps"}, GPU, r"trainer\.accelerator=mps"),
        ({"accelerator": "gpu", "devices": 3}, GPU, r"trainer\.devices=3: there are 2"),
        ({"accelerator": "cpu", "devices": -1}, CPU, r"trainer\.devices=-1"),
        ({"accelerator": "cpu", "precision": "16-mixed"}, NEW_CPU, r"trainer\.precision=16-mixed"),
        ({"accelerator": "cpu", "precision": "bf16-mixed"}, CPU, r"trainer\.precision=bf16-mixed.*32-true"),
        ({"accelerator": "gpu", "precision": "bf16-mixed"}, OLD_GPU, r"trainer\.precision=bf16-mixed"),
        ({"accelerator": "mps", "precision": "bf16-mixed"}, MAC, r"trainer\.precision=bf16-mixed"),
    ],
)
def test_what_is_not_there_is_refused_by_key(changes: dict[str, Any], hardware: Hardware, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(asked(**changes), hardware)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_precision_that_is_there_is_taken(precision: str) -> None:
    assert resolve(asked(accelerator="gpu", precision=precision), GPU).precision == precision


def test_devices_are_named_for_the_record() -> None:
    assert device_name("gpu", GPU) == "cuda: H100"
    assert device_name("cpu", CPU) == "cpu: Old"
    assert device_name("mps", MAC) == "mps: Old"


@pytest.mark.slow
def test_this_machine_is_described_alike_from_another_process() -> None:
    here = probe()
    assert here.cpu
    assert here.cpu_cores >= 1
    assert probe_in_subprocess() == here


def test_a_machine_that_cannot_be_looked_at_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback ...\nRuntimeError: the driver is too old\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match=r"the driver is too old\nTry: .*-m depthlab\.config\.hardware"):
        probe_in_subprocess()


@pytest.mark.slow
def test_nothing_is_imported_from_where_one_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert probe_in_subprocess().cpu_cores > 0


@pytest.mark.parametrize(("accelerator", "devices", "share"), [("gpu", 1, 16), ("gpu", 8, 2), ("cpu", 4, 4)])
def test_each_process_of_a_run_takes_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, devices: int, share: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    machine = Hardware("stub", 16, False, ("simulated",) * 8, False, False)
    assert use_threads(asked(accelerator=accelerator, devices=devices), machine, None) == share
    assert taken == [share]


@pytest.mark.parametrize(
    ("variable", "key", "recorded", "expected"),
    [("3", None, None, 3), ("3", 2, None, 2), ("3", None, 5, 5), ("many", None, None, 16), ("0", None, None, 16)],
)
def test_the_environments_number_of_threads_holds_where_the_configuration_says_none(
    monkeypatch: pytest.MonkeyPatch, variable: str, key: int | None, recorded: int | None, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    machine = Hardware("stub", 16, False, (), False, False)
    trainer = asked(accelerator="cpu", devices=1, num_threads=key)
    assert use_threads(trainer, machine, recorded) == expected
