"""A network of fifteen values, batches for it, and as much of a trainer as callbacks look at."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from depthlab.optim.optimizers import build_sgd
from lightning.pytorch import Trainer
from torch import nn

from depthlab.data.datamodule import Batch
from depthlab.optim.schedules import Schedule
from depthlab.training.module import SupervisedModule

LR_OF_STEP = [0.5, 0.25, 0.125, 0.0625]


def classifier(
    momentum: float = 0.0, weight_decay: float = 0.0, seed: int = 0, label_smoothing: float = 0.0
) -> SupervisedModule:
    """A linear classifier of 1x1x4 images into three classes, whose rate differs from step to step."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    build = partial(
        build_sgd,
        fused=False,
        lr=1.0,
        momentum=momentum,
        nesterov=False,
        weight_decay=weight_decay,
        decay_norm_and_bias=True,
    )
    return SupervisedModule(network, build, Schedule(1.0, lambda step: LR_OF_STEP[step % 4]), label_smoothing)


def batch(split: str = "train", seed: int = 0, n: int = 6) -> Batch:
    """`n` random images with labels."""
    random = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(n, 1, 1, 4, generator=random), torch.randint(0, 3, (n,), generator=random), split)


def trainer(**attributes: Any) -> Trainer:
    """One process without loggers, unless `attributes` say otherwise."""
    defaults: dict[str, Any] = {"world_size": 1, "is_global_zero": True, "should_stop": False, "loggers": []}
    return cast(Trainer, SimpleNamespace(**{**defaults, **attributes}))
