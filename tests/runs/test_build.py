"""From a configuration to the objects of a run: every key arrives where it works."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from depthlab.config.images import ImageSpec
from depthlab.models import count_params
from depthlab.runs.build import build_data, build_module, build_network, build_trainer
from depthlab.runs.frozen import freeze

from ..conftest import Compose

COLOUR, DIGITS = ImageSpec(32, 32, 3), ImageSpec(8, 8, 1)


def test_initial_weights_follow_from_the_seed_alone(compose_config: Compose) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.rand(3)  # whatever ran before
        states.append(build_network(compose_config(f"seed={seed}"), COLOUR, 10).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_plain_and_residual_are_twins_by_configuration(compose_config: Compose, shortcut: str) -> None:
    plain = build_network(compose_config("model=plain20"), COLOUR, 10)
    residual = build_network(compose_config("model=resnet20", f"model.shortcut={shortcut}"), COLOUR, 10)
    assert (count_params(plain) == count_params(residual)) == (shortcut == "A")


def test_weights_lie_in_channels_last_memory(compose_config: Compose) -> None:
    weight = build_network(compose_config("model=resnet20"), COLOUR, 10).get_parameter("layer1.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_channels_and_classes_follow_from_the_data(compose_config: Compose) -> None:
    state = build_network(compose_config(), DIGITS, 7).state_dict()
    assert state["conv1.weight"].shape[1] == 1
    assert state["fc.weight"].shape[0] == 7


def test_data_follow_the_seed_in_their_order_only(compose_config: Compose) -> None:
    first, second = (build_data(compose_config(f"seed={seed}", "data.val_size=100")) for seed in (0, 5))
    assert first.fingerprint() == second.fingerprint()
    assert (first.seed, second.seed) == (0, 5)
    assert (first.num_images("train"), first.num_images("val")) == (1337, 100)
    assert not first.frozen
    assert build_data(compose_config("trainer.overfit_one_batch=true")).frozen


@pytest.mark.parametrize("key", ["mixup", "cutmix", "color_jitter", "random_erasing", "label_smoothing"])
def test_each_augmentation_has_a_key_that_reaches_it_and_is_off_by_default(compose_config: Compose, key: str) -> None:
    changed = {}
    for override in ((), (f"augment.{key}=0.5",)):
        config = compose_config(*override)
        data = build_data(config)
        module = build_module(config, build_network(config, DIGITS, 10), 10)
        changed[override] = {**asdict(data.augmentation), "label_smoothing": module.task.label_smoothing}
    (before, after) = changed.values()
    assert set(before.values()) == {0, ()}  # no strength, and no augmentation of an extension
    assert {name: value for name, value in after.items() if value} == {key: 0.5}


@pytest.mark.parametrize(
    ("change", "train", "val"),
    [
        ("data.fold=1 data.num_folds=5", 1149, 288),
        ("data.images_per_class=20", 200, 137),
        ("data.classes=[3,1,7]", 0, 0),
    ],
)
def test_each_key_of_the_selection_reaches_the_data(compose_config: Compose, change: str, train: int, val: int) -> None:
    data = build_data(compose_config(*change.split()))
    if train:
        assert (data.num_images("train"), data.num_images("val")) == (train, val)
    assert data.classes == (tuple("0123456789") if train else ("3", "1", "7"))


def test_the_optimiser_is_the_one_that_was_asked_for(compose_config: Compose) -> None:
    def optimizer(*overrides: str) -> torch.optim.Optimizer:
        config = compose_config(*overrides)
        return build_module(config, build_network(config, DIGITS, 10), 10).configure_optimizers()

    sgd = optimizer("optimizer.momentum=0.8", "optimizer.weight_decay=0.3", "optimizer.nesterov=true")
    assert isinstance(sgd, torch.optim.SGD)
    assert {key: sgd.param_groups[0][key] for key in ("momentum", "weight_decay", "nesterov")} == {
        "momentum": 0.8,
        "weight_decay": 0.3,
        "nesterov": True,
    }
    adamw = optimizer("optimizer=adamw", "optimizer.beta1=0.5", "optimizer.eps=0.1")
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.param_groups[0]["betas"], adamw.param_groups[0]["eps"]) == ((0.5, 0.999), 0.1)


@pytest.mark.parametrize(
    ("override", "attribute", "value"),
    [
        ("gradient_clip_val=0.5", "gradient_clip_val", 0.5),
        ("accumulate_grad_batches=3", "accumulate_grad_batches", 3),
        ("precision=32-true", "precision", "32-true"),
    ],
)
def test_the_trainers_keys_reach_lightning(compose_config: Compose, override: str, attribute: str, value: Any) -> None:
    config = compose_config("trainer.precision=bf16-mixed", f"trainer.{override}").trainer
    assert getattr(build_trainer(config, None, [], []), attribute) == value


def test_what_is_frozen_is_the_configuration_and_its_command(tmp_path: Path) -> None:
    tree = {"name": "sweep-1", "seed": 3, "paths": {"log_dir": str(tmp_path)}}
    path = freeze(tree, "python train.py seed=3")
    assert path.is_relative_to(tmp_path / "sweep-1")
    assert json.loads(path.read_text()) == {"command": "python train.py seed=3", "config": tree}
    assert freeze(tree, "python train.py seed=3") == path
    assert freeze({**tree, "seed": 4}, "python train.py seed=3") != path
