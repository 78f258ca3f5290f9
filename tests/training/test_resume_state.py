"""What is captured is all that a continuation needs."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from depthlab.training.module import SupervisedModule
from depthlab.training.resume_state import RestoreState, capture

from .small import batch, classifier, trainer


class LossScale:
    """Stands in for a precision plugin."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def made(module: SupervisedModule, **attributes: Any) -> Trainer:
    """A trainer that has made the module's optimiser."""
    return trainer(optimizers=[module.configure_optimizers()], precision_plugin=LossScale(2.0), **attributes)


def train(module: SupervisedModule, fit: Trainer, steps: range) -> None:
    """Steps that also take from the random state, as dropout would."""
    for seed in steps:
        optimizer = fit.optimizers[0]
        optimizer.zero_grad()
        data = batch(seed=seed)
        module.training_step(data._replace(images=data.images + torch.randn(data.images.shape)), 0).backward()
        module.optimizer_step(0, 0, optimizer, None)


@pytest.fixture
def halfway() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The states after 3 steps and after 6, and nothing else shared."""
    module = classifier(momentum=0.9)
    fit = made(module)
    torch.manual_seed(5)
    train(module, fit, range(3))
    fit.precision_plugin.scale = 4.0  # type: ignore[attr-defined]
    log_state = {"last_epoch": [1.0, 2.0, 3.0]}
    captured = copy.deepcopy(capture(fit, module, log_state))
    train(module, fit, range(3, 6))
    return captured, capture(fit, module, log_state), log_state


def test_a_continuation_from_a_captured_state_ends_in_the_same_state(halfway: tuple[dict[str, Any], ...]) -> None:
    captured, expected, log_state = halfway
    module = classifier(momentum=0.9, seed=1)
    module.network.load_state_dict(captured["network"])
    module.step = captured["step"]
    fit = made(module)
    torch.manual_seed(99)
    RestoreState(captured, 1).on_train_start(fit, module)
    assert fit.precision_plugin.scale == 4.0  # type: ignore[attr-defined]
    train(module, fit, range(3, 6))
    state = capture(fit, module, log_state)
    assert torch.equal(state["random"], expected["random"])
    for name, value in expected["network"].items():
        assert torch.equal(state["network"][name], value)
    assert state["train_totals"] == expected["train_totals"]
    assert state["step"] == expected["step"] == 6
    buffers, wanted = (s["optimizer"]["state"] for s in (state, expected))
    assert all(torch.equal(buffers[key]["momentum_buffer"], wanted[key]["momentum_buffer"]) for key in wanted)


def test_a_state_is_tensors_and_plain_data(halfway: tuple[dict[str, Any], ...], tmp_path: Any) -> None:
    torch.save(halfway[0], tmp_path / "state")
    loaded = torch.load(tmp_path / "state", weights_only=True)
    assert loaded.keys() == halfway[0].keys() >= {"step", "network", "optimizer", "precision", "random", "log"}


@pytest.mark.parametrize(("is_first", "num_images"), [(True, 18), (False, 0)])
def test_sums_of_all_processes_come_back_once(
    halfway: tuple[dict[str, Any], ...], is_first: bool, num_images: int
) -> None:
    module = classifier(momentum=0.9)
    RestoreState(halfway[0], 1).on_train_start(made(module, is_global_zero=is_first), module)
    assert int(module.train_meter.num_images) == num_images


def test_no_loss_scale_is_restored_where_none_was_saved(halfway: tuple[dict[str, Any], ...]) -> None:
    module = classifier(momentum=0.9)
    state = {**halfway[0], "precision": {}}
    fit = made(module)
    fit.precision_plugin = SimpleNamespace()  # type: ignore[assignment]
    RestoreState(state, 1).on_train_start(fit, module)
    assert int(module.train_meter.num_images) == 18
