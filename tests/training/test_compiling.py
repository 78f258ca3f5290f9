"""A compiled run is a run like any other: it saves, loads, continues and measures under the same names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor

from depthlab.errors import InputError
from depthlab.models import resnet20, resnet56
from depthlab.optim.schedules import Schedule
from depthlab.records.curve_file import read_curves
from depthlab.records.record import read_record
from depthlab.runs.evaluate import evaluate_run
from depthlab.runs.run import run
from depthlab.tasks.task import ClassificationTask
from depthlab.training.compiling import (
    CACHE_VARIABLE,
    COMPILE_THREADS,
    TRITON_CACHE,
    CompiledBlocks,
    FirstCallRetried,
    compilable_blocks,
    compile_training,
    remove_empty_files,
)
from depthlab.training.module import SupervisedModule

from ..conftest import Command, Compose
from ..whole_runs import SMALL, stop_after, weights
from . import small

NEEDS_COMPILER = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")), reason="there is no C++ compiler here"
)
NOISE = ("model.dropout=0.5", "model.stochastic_depth=0.5")


@pytest.mark.slow
@NEEDS_COMPILER
@pytest.mark.parametrize("noise", [(), NOISE], ids=["", "noise"])
def test_a_compiled_run_computes_saves_and_loads_like_an_eager_one(
    compose_config: Compose, noise: tuple[str, ...]
) -> None:
    overrides = (*SMALL, *noise, "trainer.precision=32-true", "logger.every_steps=1")
    eager = run(compose_config(*overrides, "name=eager"), "").directory
    compiled = run(compose_config(*overrides, "name=compiled", "trainer.compile=true"), "").directory
    assert compiled.name == eager.name
    assert weights(compiled).keys() == weights(eager).keys()
    ours, theirs = read_curves(compiled)["train/loss"], read_curves(eager)["train/loss"]
    for (step, loss), (_, expected) in zip(ours[:4], theirs[:4], strict=True):
        assert loss == pytest.approx(expected, rel=1e-3), step
    record = read_record(compiled)
    assert record["compiled"] is True
    metrics = evaluate_run(compiled)
    assert {key: metrics[key] for key in ("test/err", "val/err")} == {
        key: record["metrics"][key] for key in ("test/err", "val/err")
    }


@pytest.mark.slow
@NEEDS_COMPILER
def test_a_compiled_run_with_random_masks_that_was_stopped_ends_as_if_it_had_not(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*SMALL, *NOISE, "trainer.precision=32-true", "trainer.compile=true", "logger.every_steps=1")
    whole = run(compose_config(*overrides, "name=whole"), "").directory
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        run(compose_config(*overrides, "name=stopped"), "")
    stopped = run(compose_config(*overrides, "name=stopped"), "").directory
    assert all(torch.equal(weights(stopped)[name], value) for name, value in weights(whole).items())
    assert read_curves(stopped)["train/loss"] == read_curves(whole)["train/loss"]


@pytest.mark.slow
@NEEDS_COMPILER
def test_a_run_may_change_between_compiled_and_eager_and_says_so(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        run(compose_config(*SMALL), "")
    directory = run(compose_config(*SMALL, "trainer.compile=true"), "").directory
    assert read_record(directory)["status"] == "finished"
    assert "compiled was False and is now True" in capsys.readouterr().out


def test_the_cache_lies_where_it_outlives_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("depthlab.training.compiling.shutil.which", lambda name: name)
    compile_training(small.classifier(), "cpu")
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / "depthlab" / "inductor")
    elsewhere = str(tmp_path / "elsewhere")
    monkeypatch.setenv(CACHE_VARIABLE, elsewhere)
    compile_training(small.classifier(), "cpu")
    assert os.environ[CACHE_VARIABLE] == elsewhere


def test_each_shape_is_compiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    monkeypatch.setattr("depthlab.training.compiling.shutil.which", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda forward, **options: seen.append(options) or forward)
    compile_training(small.classifier(), "cpu")
    # Kernels for any size are slower, and training has one; graphs of Inductor's own would get into those of ours.
    assert seen == [{"dynamic": False, "options": {"triton.cudagraphs": False}}]


def test_only_training_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    module, calls = small.classifier(), []
    monkeypatch.setattr(torch, "compile", lambda forward, **options: lambda x: calls.append(1) or forward(x))
    module.compile(dynamic=False)
    module.validation_step(small.batch("val"), 0)
    assert calls == []
    module.training_step(small.batch(), 0)
    assert calls == [1]


@pytest.mark.parametrize(("accelerator", "remedy"), [("cpu", "g[+][+]"), ("gpu", "Triton")])
def test_without_a_compiler_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, accelerator: str, remedy: str) -> None:
    monkeypatch.setattr("depthlab.training.compiling.shutil.which", lambda name: None)
    monkeypatch.setattr("depthlab.training.compiling.importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=remedy):
        compile_training(small.classifier(), accelerator)


def count_graphs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Compile without a compiler; a graph is noted each time one is made."""
    graphs: list[object] = []
    compile_ = torch.compile

    def noting(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("depthlab.training.compiling.importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic, options: compile_(forward, backend=noting))
    torch.compiler.reset()
    return graphs


def test_blocks_of_one_shape_share_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = count_graphs(monkeypatch)
    network = resnet56()
    images = torch.randn(2, 3, 32, 32)
    expected = network.forward(images)
    module = SupervisedModule(network, torch.optim.SGD, Schedule(1.0, lambda step: 1.0), ClassificationTask())
    compile_training(module, "gpu")
    assert torch.equal(module.train_forward(images), expected)
    assert len(graphs) == 5  # three widths, and two changes of width
    module.eval()
    module(images)
    assert len(graphs) == 5  # evaluation is eager


@pytest.mark.slow
def test_blocks_that_share_nothing_are_all_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = count_graphs(monkeypatch)
    network = resnet20(stochastic_depth=0.5)
    # torch's own patch: monkeypatch would end by deleting the option, which is then hidden in the whole process.
    with dynamo.patch(recompile_limit=8):
        blocks = CompiledBlocks(network, compilable_blocks(network))
        for _ in range(2):
            blocks(torch.randn(2, 3, 8, 8))
    assert len(graphs) == 9  # each drops its f with a probability of its own


def test_stages_that_are_computed_twice_are_compiled_with_their_network() -> None:
    assert len(compilable_blocks(resnet56())) == 27
    assert compilable_blocks(resnet56(activation_checkpointing=True)) == []
    assert compilable_blocks(nn.Sequential(nn.Linear(2, 2))) == []


def test_a_damaged_cache_is_left_for_a_new_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv(TRITON_CACHE, str(tmp_path / "triton" / "0"))  # where Inductor has Triton keep its kernels
    said: list[str] = []
    calls: list[str] = []

    def forward(images: torch.Tensor) -> torch.Tensor:
        calls.append(os.environ[CACHE_VARIABLE])
        if calls[-1] == str(tmp_path):
            raise RuntimeError("invalid ELF header\nand more")
        return images

    compiled = FirstCallRetried(forward, said.append)
    for _ in range(2):
        compiled(torch.zeros(1))
    assert len(calls) == 3
    assert calls[1] != str(tmp_path)
    assert TRITON_CACHE not in os.environ
    (line,) = said
    assert "RuntimeError: invalid ELF header)" in line
    with pytest.raises(ZeroDivisionError):  # what fails twice is no matter of the cache
        FirstCallRetried(lambda images: images / (1 // 0), said.append)(torch.zeros(1))


def test_files_that_a_power_cut_left_empty_are_compiled_again(tmp_path: Path) -> None:
    for name, content in (("a.so", ""), ("b.py", "x = 1"), ("c.lock", "")):
        (tmp_path / name).write_text(content)
    remove_empty_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.py", "c.lock"]


def test_a_job_compiles_with_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthlab.training.compiling.shutil.which", lambda name: name)
    monkeypatch.delenv(COMPILE_THREADS, raising=False)
    with inductor.patch(compile_threads=32):
        compile_training(small.classifier(), "cpu")
        assert os.environ[COMPILE_THREADS] == str(torch.get_num_threads())
        monkeypatch.setenv(COMPILE_THREADS, "3")
        compile_training(small.classifier(), "cpu")
        assert inductor.compile_threads == 3  # which has read the variable before, when Lightning imported it


@pytest.mark.slow
@NEEDS_COMPILER
def test_a_run_whose_compile_cache_was_cut_short_compiles_again(command: Command, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    words = ["data=digits", "model=dense", "trainer=cpu", "trainer.compile=true", "logger=csv"]  # few kernels
    words += ["trainer.max_steps=2", "trainer.val_every_steps=2", f"paths.log_dir={tmp_path / 'logs'}"]
    for seed in (1, 2):
        done = command("train.py", *words, f"seed={seed}", TORCHINDUCTOR_CACHE_DIR=str(cache))
        assert done.returncode == 0, done.stdout + done.stderr
        damaged = [path for path in cache.rglob("*") if path.is_file()]
        assert damaged
        for path in damaged:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
