"""Steps replayed in blocks: where blocks end, what forbids them, and that they compute what single steps compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor

from depthlab.config.images import ImageSpec
from depthlab.optim.components.sgd import SGD
from depthlab.records.curve_file import read_curves
from depthlab.records.journal import Journal
from depthlab.records.record import read_record
from depthlab.runs import build
from depthlab.runs.run import run
from depthlab.training.callbacks.progress import ProgressView
from depthlab.training.callbacks.weight_averaging import WeightAverage
from depthlab.training.capture import leaving_no_trace
from depthlab.training.graph_steps import StepChunks, why_not_capturable

from ..conftest import Compose, slowly
from ..whole_runs import SMALL, allow_bf16, results, same_weights, stop_after, weights
from . import small

POSSIBLE: dict[str, Any] = {
    "accelerator": "gpu",
    "precision": "bf16-mixed",
    "strategy": "auto",
    "accumulate_grad_batches": 1,
    "clips_by_value": False,
    "last_batch": "wrap",
    "detect_anomaly": False,
    "callbacks": [],
}


class Watcher(Callback):
    """A user's callback that wants to see each step."""

    def on_before_optimizer_step(self, *args: Any) -> None:
        """Look."""


class Starter(Callback):
    """A user's callback that does not."""

    def on_train_start(self, *args: Any) -> None:
        """Look once."""


def test_blocks_end_at_every_boundary_and_are_never_longer_than_asked() -> None:
    blocks = StepChunks(longest=4, every=(6, 10), at=(13, 21))
    ends = [0]
    while ends[-1] < 21:
        ends.append(blocks.end(ends[-1]))
    assert ends == [0, 4, 6, 10, 12, 13, 17, 18, 20, 21]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accelerator": "cpu"}, "CUDA"),
        ({"accelerator": "mps"}, "CUDA"),
        ({"precision": "16-mixed"}, "fp16"),
        ({"strategy": "ddp"}, "processes"),
        ({"accumulate_grad_batches": 2}, "accumulated"),
        ({"clips_by_value": True}, "by value"),
        ({"last_batch": "short"}, "last_batch"),
        ({"detect_anomaly": True}, "detect_anomaly"),
        ({"callbacks": [Starter(), Watcher()]}, "Watcher"),
        ({"callbacks": [WeightAverage(0.9)]}, "WeightAverage"),
    ],
)
def test_what_cannot_be_captured_is_named(change: dict[str, Any], words: str) -> None:
    assert words in str(why_not_capturable(**{**POSSIBLE, **change}))


def test_the_callbacks_of_a_run_are_no_obstacle(compose_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Callback] = []
    monkeypatch.setattr(
        "depthlab.training.graph_steps.why_not_capturable", lambda *args: seen.extend(args[-1]) or "enough"
    )
    run(compose_config(*SMALL, "trainer.steps_per_replay=4", "logger=tensorboard"), "")
    assert any(isinstance(callback, ProgressView) for callback in seen)
    assert why_not_capturable(**{**POSSIBLE, "callbacks": [*seen, Starter()]}) is None


def test_a_cpu_takes_single_steps_and_says_so(compose_config: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    directory = run(compose_config(*SMALL, "trainer.steps_per_replay=4"), "").directory
    assert "trainer.steps_per_replay=4 is not possible: CUDA graphs need a CUDA GPU" in capsys.readouterr().out
    assert read_record(directory)["status"] == "finished"


def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take blocks of steps on the CPU too: the same code without a graph."""
    monkeypatch.setattr("depthlab.training.graph_steps.why_not_capturable", lambda *args: None)


OPTIONS = [
    *slowly((), ("trainer.precision=bf16-mixed",), ("trainer.gradient_clip_val=0.1",), ("augment.mixup=0.2",)),
    ("schedule=cosine", "schedule.warmup_steps=3"),
    ("model.stochastic_depth=0.5", "model.dropout=0.3", "optimizer.backbone_lr_factor=0.1"),
    ("checkpoint.every_steps=5", "logger.every_steps=4", "trainer.val_every_steps=7"),
]


@pytest.mark.parametrize("overrides", OPTIONS, ids=lambda overrides: ",".join(overrides) or "defaults")
def test_blocks_compute_what_single_steps_compute(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    allow_bf16(monkeypatch)
    single = run(compose_config(*SMALL, *overrides, "name=single"), "").directory
    in_blocks(monkeypatch)
    blocks = run(compose_config(*SMALL, *overrides, "name=blocks", "trainer.steps_per_replay=4"), "").directory
    assert blocks.name == single.name
    assert same_weights(single, blocks)
    assert results(single) == results(blocks)


def test_the_record_says_whether_steps_were_captured(compose_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    single = run(compose_config(*SMALL, "trainer.steps_per_replay=4"), "").directory
    assert read_record(single)["captured"] is False
    noted: list[bool] = []
    in_blocks(monkeypatch)
    monkeypatch.setattr(Journal, "record_captured", lambda self, captured: noted.append(captured))
    run(compose_config(*SMALL, "name=blocks", "trainer.steps_per_replay=4"), "")
    assert noted == [False]  # in blocks, and without a graph on the CPU


def test_clipping_goes_without_a_fused_optimiser_unless_a_block_clips(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool | None] = []
    make = SGD.build
    monkeypatch.setattr(SGD, "build", lambda self, groups, fused: seen.append(fused) or make(self, groups, None))
    config = compose_config(*SMALL)
    config.trainer.accelerator = "gpu"
    for clips, captured in ((1.0, False), (1.0, True), (None, False)):
        config.trainer.gradient_clip_val = clips
        network = build.build_network(config, ImageSpec(8, 8, 1), 10)
        build.build_module(config, network, 10).build_optimizer(network, captured=captured)
    assert seen == [None, True, True]


class ChunkObserver:
    """Follows a run with a callback that acts at each batch."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def mark(self, part: str) -> None:
        """Nothing."""

    def callbacks(self) -> list[Callback]:
        """One that notes steps."""
        return [LambdaCallback(on_train_batch_end=lambda trainer, module, *rest: self.seen.append(module.step))]


def test_an_observer_sees_chunks_and_does_not_undo_them(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_blocks(monkeypatch)
    observer = ChunkObserver()
    directory = run(compose_config(*SMALL, "trainer.steps_per_replay=4"), "", observer=observer).directory
    assert read_record(directory)["status"] == "finished"
    assert observer.seen == [3, 6, 9, 12]


@pytest.mark.slow
def test_blocks_of_adamw_agree_within_rounding(compose_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    # Adam divides the rate before it is applied: in double precision where it is a number, not where it is a tensor.
    overrides = (*SMALL, "optimizer=adamw", "trainer.precision=32-true")
    single = run(compose_config(*overrides, "name=single"), "").directory
    in_blocks(monkeypatch)
    blocks = run(compose_config(*overrides, "name=blocks", "trainer.steps_per_replay=4"), "").directory
    for key, value in weights(single).items():
        torch.testing.assert_close(weights(blocks)[key], value, rtol=1e-3, atol=1e-4)


def test_lightning_sees_a_block_as_one_batch(compose_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks(monkeypatch)
    seen: list[int] = []
    act = ProgressView.on_train_batch_end

    def note(self: ProgressView, trainer: Any, module: Any, *rest: Any) -> None:
        seen.append(module.step)
        act(self, trainer, module, *rest)

    monkeypatch.setattr(ProgressView, "on_train_batch_end", note)
    run(compose_config(*SMALL, "trainer.steps_per_replay=100", "logger.every_steps=5"), "")
    assert seen == [5, 6, 10, 12]  # readings, validations, the end


@pytest.mark.parametrize("stop_at", [3, *slowly(2, 7)])
def test_a_run_stopped_between_blocks_continues_exactly(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    in_blocks(monkeypatch)
    overrides = (*SMALL, "checkpoint.every_steps=2", "trainer.steps_per_replay=3")
    whole = run(compose_config(*overrides, "name=whole"), "").directory
    with monkeypatch.context() as patch:
        stop_after(patch, stop_at)
        cut = run(compose_config(*overrides, "name=cut"), "")
    assert cut.status == "interrupted"
    finished = run(compose_config(*overrides, "name=cut"), "").directory
    assert same_weights(whole, finished)
    assert results(whole) == results(finished)


def test_a_run_may_change_between_blocks_and_single_steps(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(compose_config(*SMALL, "name=whole"), "").directory
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        in_blocks(patch)
        run(compose_config(*SMALL, "name=cut", "trainer.steps_per_replay=2"), "")
    finished = run(compose_config(*SMALL, "name=cut"), "").directory
    assert same_weights(whole, finished)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a CUDA GPU")
@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clips", ["null", "0.5"])
def test_a_captured_run_agrees_with_an_ordinary_one(
    compose_config: Compose, compiled: str, optimizer: str, clips: str
) -> None:
    overrides = (*SMALL, "trainer=gpu", "trainer.deterministic=true", f"optimizer={optimizer}", "optimizer.lr=0.001")
    overrides += (f"trainer.gradient_clip_val={clips}",)
    single = run(compose_config(*overrides, "name=single"), "").directory
    captured = ("trainer.steps_per_replay=4", f"trainer.compile={compiled}")
    blocks = run(compose_config(*overrides, "name=blocks", *captured), "").directory
    ours, theirs = read_curves(blocks), read_curves(single)
    assert ours["lr"] == theirs["lr"]
    for (step, loss), (_, expected) in zip(ours["train/loss"], theirs["train/loss"], strict=True):
        assert loss == pytest.approx(expected, rel=1e-2), step
    for key, value in weights(single).items():
        torch.testing.assert_close(weights(blocks)[key], value, rtol=0.05, atol=5e-3)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_the_steps_before_a_capture_leave_no_trace(steps_before: int) -> None:
    def train(tried_steps: int) -> tuple[Tensor, ...]:
        module = small.classifier()
        optimizer = torch.optim.AdamW(module.network.parameters(), lr=0.1)

        def take_step() -> None:
            images = small.batch().images * torch.rand(())
            optimizer.zero_grad()
            module.network(images).square().sum().backward()
            optimizer.step()

        for _ in range(steps_before):
            take_step()
        if tried_steps:
            with leaving_no_trace(module.network, optimizer, torch.device("cpu")):
                for _ in range(tried_steps):
                    take_step()
        for _ in range(2):
            take_step()
        moments = [value for state in optimizer.state.values() for value in state.values()]
        return (*module.network.state_dict().values(), *moments)

    assert all(torch.equal(a, b) for a, b in zip(train(3), train(0), strict=True))


def test_a_long_block_is_cut_at_the_start_of_the_last_epoch(compose_config: Compose) -> None:
    config = compose_config(*SMALL)
    config.trainer = replace(config.trainer, steps_per_replay=50, accelerator="gpu", precision="32-true")
    planned = small.plan(log_every_steps=3, images_per_epoch=110)
    assert planned.last_epoch_start == 1
    blocks, obstacle = build.build_chunks(config, planned, callbacks=[])
    assert obstacle is None
    assert blocks is not None
    assert [blocks.end(step) for step in (0, 1, 3)] == [1, 3, 6]
