"""Captured steps, with the stand-in for a CUDA graph: equal to ordinary ones, and as few operators as promised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from PIL import Image
from torch import Tensor

from depthlab.config.schema import TrainConfig
from depthlab.data.train_stream import _draw_epoch
from depthlab.records.record import read_record
from depthlab.runs.fit import Fit
from depthlab.runs.run import run
from depthlab.training import capture, graph_steps
from depthlab.training.chunk_inputs import ChunkRows, DrawnInputs
from depthlab.training.graph_steps import GraphStepper
from depthlab.training.module import SupervisedModule
from depthlab_benchmarks.captured import (
    VARIANTS,
    Bench,
    CannotCapture,
    OperatorCount,
    configured,
    differences,
    graphs_on_cpu,
    stand_in,
)

from ..conftest import Compose
from ..whole_runs import SMALL, allow_bf16, results, same_weights, stop_after, weights

STEPS = 8
FAST = ("sgd", "mixup", "dropout", "bf16, clipping")  # of the variants
BASE = ("data=digits", "data.batch_size=16", "model=resnet20", "model.depth=8", "trainer=cpu")
FP32 = "trainer.precision=32-true"


def configure(compose_config: Compose, *overrides: str) -> TrainConfig:
    warm = ("schedule.warmup_steps=5", "schedule.warmup_shape=linear", "trainer.steps_per_replay=3")
    precision = () if any(word.startswith("trainer.precision") for word in overrides) else (FP32,)
    return configured(lambda words: compose_config(*BASE, *warm, *precision, *words), overrides)


def after(config: TrainConfig, captured: bool, steps: int = STEPS) -> dict[str, Tensor]:
    bench = Bench(config, stand_in if captured else None)
    bench.take(steps)
    assert bench.said == []
    return bench.state()


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(overrides, id=name, marks=[] if name in FAST else [pytest.mark.slow])
        for name, overrides in VARIANTS.items()
    ],
)
def test_captured_steps_equal_ordinary_ones_bit_for_bit(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    allow_bf16(monkeypatch)
    config = configure(compose_config, *overrides)
    expected = after(config, captured=False)
    assert differences(after(config, captured=True), expected) == []
    assert differences(after(config, captured=False, steps=STEPS - 1), expected)  # each step changes something


def in_captured_step(monkeypatch: pytest.MonkeyPatch, before: Callable[[Any], None]) -> None:
    """Do something to the optimiser in front of each update that Python makes: those of the trial and the capture."""
    take = GraphStepper._take_step

    def faulty(self: GraphStepper, module: SupervisedModule, optimizer: torch.optim.Optimizer) -> None:
        step = optimizer.step
        optimizer.step = lambda: (before(optimizer), step())  # type: ignore[assignment, method-assign]
        take(self, module, optimizer)
        optimizer.step = step  # type: ignore[method-assign]

    monkeypatch.setattr(GraphStepper, "_take_step", faulty)


def bake_the_rate_in(monkeypatch: pytest.MonkeyPatch) -> None:
    in_captured_step(monkeypatch, lambda optimizer: [group.update(lr=0.01) for group in optimizer.param_groups])


def lose_the_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    in_captured_step(
        monkeypatch, lambda optimizer: [state["momentum_buffer"].zero_() for state in optimizer.state.values()]
    )


def lose_the_weight_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    in_captured_step(monkeypatch, lambda optimizer: [group.update(weight_decay=0) for group in optimizer.param_groups])


def read_a_stale_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    read = ChunkRows.next

    def stale(self: ChunkRows) -> list[Tensor]:
        rates, *draws = read(self)
        self.first = getattr(self, "first", None) or [each.clone() for each in draws]  # type: ignore[attr-defined]
        return [rates, *self.first]  # type: ignore[attr-defined]

    monkeypatch.setattr(ChunkRows, "next", stale)


def keep_the_statistics_of_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = capture.leaving_no_trace

    @contextmanager
    def leaving_statistics(network: Any, optimizer: Any, device: Any) -> Iterator[None]:
        with leave(network, optimizer, device):
            yield
            kept = {name: value.clone() for name, value in network.named_buffers() if "running" in name}
        for name, value in kept.items():
            network.get_buffer(name).copy_(value)

    monkeypatch.setattr(graph_steps, "leaving_no_trace", leaving_statistics)


def shift_the_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    rates_of = GraphStepper._rates_of
    monkeypatch.setattr(
        GraphStepper,
        "_rates_of",
        lambda self, module, numbers: rates_of(self, module, range(numbers.start + 1, numbers.stop + 1)),
    )


FAULTS = (
    bake_the_rate_in,
    lose_the_momentum,
    lose_the_weight_decay,
    read_a_stale_batch,
    keep_the_statistics_of_the_warm_up,
    shift_the_rates,
)


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_seen(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    config = configure(compose_config, "optimizer.weight_decay=0.01")
    expected = after(config, captured=False)
    with monkeypatch.context() as patch:
        plant(patch)
        assert differences(after(config, captured=True), expected)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda loss: loss.item(), "reads a value"),
        (lambda loss: bool(loss > 0), "reads a value"),
        (lambda loss: loss.detach().numpy(), "reads a value"),
        (lambda loss: loss.detach().cpu(), "reads a value"),
        (lambda loss: torch.tensor(3.0) * loss, "host data"),
    ],
    ids=["item", "bool", "numpy", "cpu", "host data"],
)
def test_what_a_graph_cannot_hold_is_refused_and_the_run_goes_on(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, read: Callable[[Tensor], object], words: str
) -> None:
    config = configure(compose_config)
    expected = after(config, captured=False)
    compute = SupervisedModule.loss_and_counts

    def reading(self: SupervisedModule, batch: Any) -> Any:
        loss, counts = compute(self, batch)
        read(loss)
        return loss, counts

    monkeypatch.setattr(SupervisedModule, "loss_and_counts", reading)
    bench = Bench(config, stand_in)
    bench.take(STEPS)
    (said,) = bench.said
    assert "could not be captured" in said
    assert words in said
    assert differences(bench.state(), expected) == []


def test_new_state_cannot_be_made_while_a_step_is_captured() -> None:
    state = [torch.zeros(2)]
    with pytest.raises(CannotCapture, match="makes a tensor"):
        stand_in(lambda: state.append(torch.ones(2)), lambda: state)


def test_the_capture_itself_leaves_no_trace_and_a_replay_uses_the_same_memory() -> None:
    value, seen = torch.ones(3), torch.zeros(3)

    def step() -> None:
        value.mul_(2)
        seen.copy_(value + 1)

    replay = stand_in(step, lambda: [value, seen])
    assert value.tolist() == [1, 1, 1]
    assert seen.tolist() == [0, 0, 0]
    value.fill_(5)
    replay()
    replay()
    assert value.tolist() == [20, 20, 20]
    assert seen.tolist() == [21, 21, 21]


def operators_of_a_step(config: TrainConfig) -> OperatorCount:
    counts: list[OperatorCount] = []

    def counting(take_step: Callable[[], None], lasting: Any) -> Callable[[], None]:
        with OperatorCount() as count:
            take_step()
        counts.append(count)
        return lambda: None

    bench = Bench(config, counting)
    bench.take(1)
    assert bench.said == []
    return counts[0]


# 191 and 443 operators with the making of the batch. A larger number needs a reason.
@pytest.mark.parametrize(("model", "most"), [("resnet20", 195), ("resnet56", 447)])
def test_a_step_has_no_more_operators_than_its_budget(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, model: str, most: int
) -> None:
    allow_bf16(monkeypatch)
    config = compose_config("data=digits", f"model={model}", "trainer=cpu", "trainer.precision=bf16-mixed")
    config.data = replace(config.data, batch_size=4)
    count = operators_of_a_step(config)
    assert count.names.total() <= most, count.names.most_common()
    assert count.names["aten::_foreach_copy_"] == 3  # rates, weights and gradients
    # Casts of the images and scores, none of weights; no counters of batches.
    assert count.names["aten::_to_copy"] <= 5


def test_nothing_happens_between_the_steps_of_a_chunk(compose_config: Compose) -> None:
    config = configure(compose_config, "augment.mixup=0.2")
    config.trainer = replace(config.trainer, steps_per_replay=20)
    bench = Bench(config, lambda take_step, lasting: lambda: None)
    bench.take(20)
    totals = []
    for steps in (5, 20):
        with OperatorCount() as count:
            bench.take(steps)
        # Draws are made and packed on the host, in memory that the device does not see.
        totals.append(count.names.total() - count.names["aten::detach"])
    assert totals[0] == totals[1]


def whole_run(compose_config: Compose, name: str, *overrides: str) -> Path:
    with graphs_on_cpu():
        words = (*SMALL, "trainer.steps_per_replay=4", FP32, *overrides, f"name={name}")
        return run(compose_config(*words), "").directory


CADENCES = ("checkpoint.every_steps=5", "logger.every_steps=2", "trainer.val_every_steps=6")


def test_late_readings_log_what_readings_at_once_would(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = whole_run(compose_config, "late", *CADENCES)
    assert read_record(late)["captured"] is True
    step_in_chunks = Fit._step_in_chunks

    def reading_at_once(self: Fit) -> None:
        step_in_chunks(self)
        assert self.curves.reads_late
        self.curves.reads_late = False

    monkeypatch.setattr(Fit, "_step_in_chunks", reading_at_once)
    at_once = whole_run(compose_config, "at_once", *CADENCES)
    assert results(late) == results(at_once)
    assert same_weights(late, at_once)


@pytest.mark.slow
def test_a_captured_run_that_was_stopped_goes_on_captured_or_not(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whole_run(compose_config, "whole", *CADENCES)
    for name in ("captured", "ordinary"):
        with monkeypatch.context() as patch:
            stop_after(patch, 5)
            assert not read_record(whole_run(compose_config, name, *CADENCES))["metrics"]
    again = whole_run(compose_config, "captured", *CADENCES)
    assert same_weights(whole, again)
    assert results(whole) == results(again)
    ordinary = run(compose_config(*SMALL, FP32, *CADENCES, "name=ordinary"), "").directory
    for key, value in weights(whole).items():  # the captured rate is float32, the ordinary one float64
        torch.testing.assert_close(weights(ordinary)[key], value, rtol=1e-3, atol=1e-4)


def test_a_divergence_is_recorded_at_its_step_though_it_is_read_late(compose_config: Compose) -> None:
    diverging = ("optimizer.lr=1e20", "logger.every_steps=2")
    with graphs_on_cpu():
        late = run(compose_config(*SMALL, FP32, *diverging, "trainer.steps_per_replay=4", "name=late"), "")
    at_once = run(compose_config(*SMALL, FP32, *diverging, "name=at_once"), "")
    assert late.status == at_once.status == "diverged"
    steps = [read_record(each.directory)["divergence"]["step"] for each in (late, at_once)]
    assert steps[0] == steps[1]


def test_a_run_whose_step_cannot_be_captured_says_so_and_goes_on(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute = SupervisedModule.loss_and_counts

    def reading(self: SupervisedModule, batch: Any) -> Any:
        loss, counts = compute(self, batch)
        loss.item()
        return loss, counts

    monkeypatch.setattr(SupervisedModule, "loss_and_counts", reading)
    directory = whole_run(compose_config, "refused")
    assert "could not be captured (CannotCapture: " in capsys.readouterr().out
    record = read_record(directory)
    assert (record["status"], record["captured"]) == ("finished", False)


def test_no_memory_for_the_capture_is_not_taken_for_a_step_that_cannot_be_captured(compose_config: Compose) -> None:
    def full(take_step: Callable[[], None], lasting: Any) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        Bench(configure(compose_config), full).take(1)


def test_no_memory_is_seen_behind_the_error_of_the_capture_that_it_spoilt(compose_config: Compose) -> None:
    def full(take_step: Callable[[], None], lasting: Any) -> Callable[[], None]:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    bench = Bench(configure(compose_config), full)
    with pytest.raises(RuntimeError, match="previous error"):
        bench.take(1)
    assert bench.said == []


class FakeCuda:
    """As much of torch.cuda as a capture uses; what was asked of it, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        self.mode = 0
        stream = SimpleNamespace(wait_stream=lambda other: None)
        fakes: dict[str, Any] = {
            "Stream": lambda: stream,
            "current_stream": lambda: "the stream before",
            "stream": lambda each: nullcontext(),
            "get_sync_debug_mode": lambda: self.mode,
            "set_sync_debug_mode": lambda mode: setattr(self, "mode", mode),
            "graph_pool_handle": lambda: (0, 7),
            "graph": lambda graph, pool: self._capture(pool),
            "set_stream": lambda each: self.asked.append(("stream", each)),
            "current_device": lambda: 0,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        for name in ("end", "release"):
            own = {"end": "_cuda_endAllocateToPool", "release": "_cuda_releasePool"}[name]
            note = partial(lambda what, device, pool: self.asked.append((what, device, pool)), name)
            monkeypatch.setattr(torch._C, own, note, raising=False)

    @contextmanager
    def _capture(self, pool: tuple[int, int]) -> Iterator[None]:
        self.asked.append(("capture", pool))
        yield


def test_the_last_step_before_a_capture_may_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(wait_stream=lambda other: None))
    seen: list[Any] = []
    capture.warm_up(lambda: seen.append(fake.mode), torch.device("cuda"))
    assert seen == [0, 0, "error"]
    assert fake.mode == 0

    def waiting() -> None:
        if fake.mode:
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        capture.warm_up(waiting, torch.device("cuda"))
    assert fake.mode == 0


@pytest.mark.slow
def test_a_failed_capture_gives_stream_and_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    capture.capture_into("a graph", lambda: None)
    assert fake.asked == [("capture", (0, 7))]
    with pytest.raises(ZeroDivisionError):
        capture.capture_into("a graph", lambda: 1 // 0)
    assert fake.asked[2:] == [("stream", "the stream before"), ("end", 0, (0, 7)), ("release", 0, (0, 7))]


def test_no_step_of_a_chunk_computes_with_weights_that_autocast_has_kept(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_bf16(monkeypatch)
    config = configure(compose_config, "trainer.precision=bf16-mixed")

    def state() -> dict[str, Tensor]:
        bench = Bench(config, None)
        with torch.autocast("cpu", torch.bfloat16):  # Lightning's around a chunk
            bench.take(3)
        return bench.state()

    expected = state()
    # As Lightning may have it some day: without cache_enabled=False.
    monkeypatch.setattr(
        MixedPrecision, "autocast_context_manager", lambda self: torch.autocast("cpu", dtype=torch.bfloat16)
    )
    assert differences(state(), expected) == []


def test_images_on_disk_are_copied_into_the_captured_step(compose_config: Compose, tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    for idx in range(40):
        path = tmp_path / "few" / "train" / "ab"[idx % 2] / f"{idx}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 255, (10, 10, 3)).astype(np.uint8)).save(path)
    words = ("data=image_folder", "data.folder=few", f"paths.data_dir={tmp_path}", "data.image_size=10")
    words += ("data.batch_size=8", "data.val_fraction=0.1", "data.test_fraction=0.1", "data.memory_limit_gib=1e-9")
    config = configure(compose_config, *words)
    expected = after(config, captured=False)
    assert differences(after(config, captured=True), expected) == []


def test_the_next_epoch_is_drawn_while_the_device_works(compose_config: Compose) -> None:
    bench = Bench(configure(compose_config, "data.batch_size=100"), None)
    bench.take(3)
    inputs = bench.stepper._inputs
    assert isinstance(inputs, DrawnInputs)
    inputs._ahead.shutdown(wait=True)
    made = _draw_epoch.cache_info().misses
    stream = bench.data.stream(torch.device("cpu"))
    first = stream.first_of_next_epoch(2)
    assert [epoch for epoch, *_ in stream.epoch_slices(first)] == [1]
    assert [epoch for epoch, *_ in stream.epoch_slices(first - 1)] in ([0], [0, 1])
    stream.batch(first)
    assert _draw_epoch.cache_info().misses == made
