"""The clock around the steps, and batch norm's statistics after them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.optim.swa_utils import update_bn

from depthlab.data.datamodule import ImageDataModule
from depthlab.training.callbacks import stopwatch
from depthlab.training.callbacks.precise_bn import AveragedBatchNorm, average_statistics
from depthlab.training.callbacks.stopwatch import Stopwatch
from depthlab_benchmarks.captured import OperatorCount

from .small import classifier, few_images, plan, trainer


def test_the_stopwatch_counts_training_and_not_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now)
    watch, module = Stopwatch(), classifier()
    seen = []
    events: list[tuple[Callable[..., None], float]] = [
        (watch.on_train_start, 5.0),
        (watch.on_validation_start, 70.0),
        (watch.on_validation_end, 2.0),
        (watch.on_train_end, 50.0),
    ]
    for event, seconds_after in events:
        event(trainer(), module)
        now += seconds_after
        seen.append(watch.seconds)
    assert seen == [5.0, 5.0, 7.0, 7.0]


def test_steps_that_a_gpu_has_still_to_do_count_as_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def wait() -> None:
        nonlocal now
        now += 3.0

    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    watch, module = Stopwatch(), classifier()
    watch.on_train_start(trainer(), module)
    watch.on_validation_start(trainer(), cast(LightningModule, SimpleNamespace(device=torch.device("cuda"))))
    assert watch.seconds == 3.0


@pytest.fixture
def data() -> ImageDataModule:
    """50 images in batches of 8: an epoch is 7 batches."""
    return few_images()


def with_batch_norm(
    step: int, data: ImageDataModule, batches_per_step: int = 1, should_stop: bool = False
) -> nn.BatchNorm2d:
    """The statistics after the callback saw the end of an epoch at `step`; the run ends at step 10."""
    module = classifier()
    module.network = norm = nn.BatchNorm2d(3)
    module.step = step
    fit = trainer(precision_plugin=SimpleNamespace(forward_context=nullcontext), should_stop=should_stop)
    planned = plan(max_steps=10, batches_per_step=batches_per_step)
    AveragedBatchNorm(data, planned).on_train_epoch_end(fit, module)
    return norm


def test_processes_share_the_statistics_that_each_averaged(
    data: ImageDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = with_batch_norm(10, data)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda statistic: statistic.add_(3.0))  # the other's
    shared = with_batch_norm(10, data)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(shared, name), (getattr(alone, name) + 3.0) / 2)


def test_the_stopwatch_notes_the_first_batch_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now)
    watch, module = Stopwatch(), classifier()
    module.step = 30
    watch.on_train_start(trainer(), module)
    for seconds, step in ((7.0, 30), (60.0, 80), (1.0, 130)):
        now += seconds
        module.step = step
        watch.on_train_batch_end(trainer(), module, None, None, 0)
    assert (watch.warm_up_steps, watch.warm_up_seconds, watch.seconds) == (50, 67.0, 68.0)


@pytest.mark.parametrize("batches_per_step", [1, 3])
def test_statistics_become_plain_averages_over_the_epoch_that_would_have_followed(
    data: ImageDataModule, batches_per_step: int
) -> None:
    norm = with_batch_norm(10, data, batches_per_step)
    first = 10 * batches_per_step
    batches = [data.train_batch(number, torch.device("cpu")).images for number in range(first, first + 7)]
    means = torch.stack([images.mean((0, 2, 3)) for images in batches])
    variances = torch.stack([images.transpose(0, 1).flatten(1).var(1) for images in batches])
    assert torch.allclose(norm.running_mean, means.mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, variances.mean(0), atol=1e-6)
    assert norm.momentum == 0.1


def test_statistics_are_left_alone_before_the_last_step(data: ImageDataModule) -> None:
    assert not with_batch_norm(9, data).running_mean.any()


def test_statistics_are_averaged_where_a_callback_ends_the_run(data: ImageDataModule) -> None:
    assert with_batch_norm(6, data, should_stop=True).running_mean.any()


def test_the_averages_are_those_of_torch_without_a_reading_of_the_device() -> None:
    ours, theirs = (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    batches = [torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    with OperatorCount() as count:
        average_statistics(ours.eval(), batches)
    update_bn(batches, theirs)
    assert not ours.training
    assert count.names["aten::_local_scalar_dense"] == 0
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
