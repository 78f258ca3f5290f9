"""A network of fifteen values, batches and images for it, a plan, and as much of a trainer as callbacks look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import nn
from torchmetrics import Metric

from depthlab.data.batch import Batch
from depthlab.data.datamodule import ImageDataModule
from depthlab.data.source import ImageSource
from depthlab.data.spec import DataSpec
from depthlab.optim.components.sgd import SGD
from depthlab.optim.parameter_groups import parameter_groups
from depthlab.optim.schedules import Schedule
from depthlab.tasks.task import ClassificationTask, Task
from depthlab.training.module import SupervisedModule
from depthlab.training.plan import Plan

LR_OF_STEP = [0.5, 0.25, 0.125, 0.0625]


def plan(**changes: Any) -> Plan:
    """The plan of a run of 12 steps with a validation every 6."""
    settings: dict[str, Any] = {
        "max_steps": 12,
        "val_every_steps": 6,
        "log_every_steps": 1,
        "batch_size": 10,
        "images_per_epoch": 100,
    }
    return Plan(**{**settings, **changes})


def classifier(
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    seed: int = 0,
    task: Task | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> SupervisedModule:
    """A linear classifier of 1x1x4 images into three classes, whose rate differs from step to step."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    spec = SGD(lr=1.0, momentum=momentum, weight_decay=weight_decay)

    def build(network: nn.Module) -> torch.optim.Optimizer:
        return spec.build(parameter_groups(network, spec.weight_decay, True), False)

    schedule = Schedule(1.0, lambda step: LR_OF_STEP[step % 4])
    return SupervisedModule(network, build, schedule, task or ClassificationTask(), metrics)


def batch(split: str = "train", seed: int = 0, n: int = 6) -> Batch:
    """`n` random images with labels."""
    random = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(n, 1, 1, 4, generator=random), torch.randint(0, 3, (n,), generator=random), split)


def trainer(**attributes: Any) -> Trainer:
    """One process without loggers, unless `attributes` say otherwise."""
    progress = SimpleNamespace(total=SimpleNamespace())
    epoch_loop = SimpleNamespace(
        automatic_optimization=SimpleNamespace(
            optim_progress=SimpleNamespace(optimizer=SimpleNamespace(step=progress))
        ),
        manual_optimization=SimpleNamespace(optim_step_progress=progress),
    )
    defaults: dict[str, Any] = {
        "fit_loop": SimpleNamespace(epoch_loop=epoch_loop, epoch_progress=SimpleNamespace(current=SimpleNamespace())),
        "world_size": 1,
        "is_global_zero": True,
        "should_stop": False,
        "sanity_checking": False,
        "loggers": [],
        "callbacks": [],
    }
    return cast(Trainer, SimpleNamespace(**{**defaults, **attributes}))


@dataclass(frozen=True)
class FewImages(DataSpec):
    """70 + 30 colour images, each with its own bytes: 50 to train on, 20 to validate on."""

    registered = "few"

    def read(self, data_dir: Path) -> ImageSource:
        images = np.random.RandomState(0).randint(20, 250, (100, 6, 6, 3)).astype(np.uint8)
        labels = np.arange(100) % 5
        return ImageSource(images[:70], labels[:70], images[70:], labels[70:], tuple("abcde"))


def few_images(**keys: Any) -> ImageDataModule:
    """Their data module, in batches of 8."""
    spec = FewImages(**{"val_size": 20, "batch_size": 8, "crop_padding": 2, "flip": True, **keys})
    return ImageDataModule(spec, Path(), seed=1)
