"""Updates by hand, which parameters decay, and the learning rate at every step against definitions written here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from depthlab.config.registry import lookup
from depthlab.models import cifar_net
from depthlab.optim.parameter_groups import parameter_groups
from depthlab.optim.schedules import Schedule, constant, half_cosine, scaled, steps_down
from depthlab.optim.spec import OptimizerSpec
from depthlab.runs.build import build_schedule

from ..conftest import Compose, slowly

GRADIENTS = (torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 3.0]]))


def build(name: str, network: nn.Module, **keys: object) -> torch.optim.Optimizer:
    """The optimiser that the configuration `optimizer=name` with these keys makes for a network."""
    spec = lookup("optimizer", name)(**keys)
    assert isinstance(spec, OptimizerSpec)
    groups = parameter_groups(network, spec.weight_decay, spec.decay_norm_and_bias, spec.backbone_lr_factor)
    return spec.build(groups, fused=False)


def weights_after(optimizer_of: str, **arguments: object) -> list[Tensor]:
    """The weights of a 2-to-1 linear layer before and after two updates by GRADIENTS."""
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    optimizer = build(optimizer_of, layer, **arguments, decay_norm_and_bias=True)
    weights = [layer.weight.detach().clone()]
    for gradient in GRADIENTS:
        layer.weight.grad = gradient.clone()
        optimizer.step()
        weights.append(layer.weight.detach().clone())
    return weights


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "nesterov"),
    [(0.9, 0.1, False), (0.9, 0.0, False), (0.0, 0.1, False), (0.9, 0.1, True)],
)
def test_sgd_has_momentum_and_weight_decay_in_the_gradient(
    momentum: float, weight_decay: float, nesterov: bool
) -> None:
    before, first, second = weights_after(
        "sgd", lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    gradient = GRADIENTS[0] + weight_decay * before
    velocity = gradient
    assert torch.allclose(first, before - 0.1 * (gradient + momentum * velocity if nesterov else velocity))
    gradient = GRADIENTS[1] + weight_decay * first
    velocity = momentum * velocity + gradient
    assert torch.allclose(second, first - 0.1 * (gradient + momentum * velocity if nesterov else velocity))


def test_adamw_decays_the_weights_apart_from_the_gradient() -> None:
    beta1, beta2, eps, lr, decay = 0.8, 0.95, 1e-3, 0.1, 0.2
    weights = weights_after("adamw", lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay)
    mean = square = torch.zeros(1, 2)
    expected = weights[0]
    for step, gradient in enumerate(GRADIENTS, start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        update = mean / (1 - beta1**step) / ((square / (1 - beta2**step)).sqrt() + eps)
        expected = expected - lr * decay * expected - lr * update
        assert torch.allclose(weights[step], expected)


def test_everything_decays_as_in_the_paper() -> None:
    network = cifar_net(8)
    (group,) = parameter_groups(network, 0.1, decay_norm_and_bias=True)
    assert group["weight_decay"] == 0.1
    assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}


def test_norms_and_biases_can_be_spared() -> None:
    network = cifar_net(8, shortcut="B")
    decayed, spared = parameter_groups(network, 0.1, decay_norm_and_bias=False)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert {id(p) for p in decayed["params"]} == {id(layer.weight) for layer in layers}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("sgd", {"momentum": 0.9, "nesterov": False}),
        ("adamw", {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    ],
)
def test_groups_reach_the_optimiser(name: str, keys: dict[str, object]) -> None:
    optimizer = build(name, nn.Linear(2, 2), lr=0.3, weight_decay=0.01, decay_norm_and_bias=False, **keys)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.3}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0001, "decay_norm_and_bias": True}),
        ("adamw", {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.05}),
    ],
)
def test_options_have_the_defaults_that_their_files_had(
    compose_config: Compose, name: str, expected: dict[str, object]
) -> None:
    config = compose_config(f"optimizer={name}")
    found = config.optimizer.values()
    assert found | expected == found
    assert found["decay_norm_and_bias"] is (name == "sgd")


def test_the_backbone_gets_a_part_of_the_rate_and_the_classifier_all_of_it() -> None:
    network = cifar_net(8)
    optimizer = build("sgd", network, lr=0.2, backbone_lr_factor=0.1)
    slow, full = optimizer.param_groups
    assert slow["lr_factor"] == 0.1
    assert "lr_factor" not in full
    assert {id(p) for p in full["params"]} == {id(p) for p in network.fc.parameters()}


def trace(compose_config: Compose, *overrides: str) -> list[float]:
    """The rate of every step of a run."""
    config = compose_config("data=cifar10", *overrides)
    schedule = build_schedule(config)
    return [schedule(step) for step in range(config.trainer.max_steps)]


def paper_rate(step: int, depth: int) -> float:
    """Section 4.2: 0.1, divided by 10 at 32k and 48k; 0.01 for the first 400 steps of the deep networks."""
    if depth >= 110 and step < 400:
        return 0.01
    if step < 32_000:
        return 0.1
    return 0.01 if step < 48_000 else 0.001


@pytest.mark.parametrize("model", ["plain20", "resnet110", *slowly("resnet56", "plain1202")])
def test_he2015_is_the_papers_at_each_of_64000_steps(compose_config: Compose, model: str) -> None:
    rates = trace(compose_config, f"model={model}", "schedule=he2015", "trainer.max_steps=64000")
    assert len(rates) == 64_000
    depth = int("".join(filter(str.isdigit, model)))
    assert rates == pytest.approx([paper_rate(step, depth) for step in range(64_000)], rel=1e-12)


def test_milestones_move_with_the_length_and_the_warm_up_does_not(compose_config: Compose) -> None:
    overrides = ("model=resnet110", "trainer.max_steps=6400", "schedule.scale_to_max_steps=true")
    rates = trace(compose_config, *overrides)
    expected = [0.01] * 400 + [0.1] * 2800 + [0.01] * 1600 + [0.001] * 1600
    assert rates == pytest.approx(expected, rel=1e-12)


def test_milestones_stay_where_they_are_written_unless_asked(compose_config: Compose) -> None:
    assert set(trace(compose_config, "model=resnet20", "trainer.max_steps=1000")) == {0.1}


def test_step_divides_where_it_says(compose_config: Compose) -> None:
    overrides = ("schedule=step", "schedule.milestones=[3,5]", "schedule.factor=0.5", "trainer.max_steps=7")
    assert trace(compose_config, *overrides, "optimizer.lr=0.4") == pytest.approx([0.4] * 3 + [0.2] * 2 + [0.1] * 2)


@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_begins_at_the_full_rate_and_ends_at_zero(compose_config: Compose, warmup: int) -> None:
    overrides = ("schedule=cosine", f"schedule.warmup_steps={warmup}", "trainer.max_steps=110")
    config = compose_config(*overrides, "optimizer.lr=0.2")
    schedule = build_schedule(config)
    span = 110 - warmup
    assert schedule(warmup) == pytest.approx(0.2)
    assert schedule(warmup + span // 2) == pytest.approx(0.1)
    assert schedule(110) == pytest.approx(0.0, abs=1e-15)
    for step in range(warmup, 110):
        assert schedule(step) == pytest.approx(0.1 * (1 + math.cos(math.pi * (step - warmup) / span)))


def test_cosine_stays_at_zero_after_its_end_and_bears_a_span_of_nothing() -> None:
    assert half_cosine(0, 10)(15) == pytest.approx(0.0, abs=1e-15)
    assert half_cosine(10, 10)(10) == 1.0


def test_constant_is_constant(compose_config: Compose) -> None:
    assert set(trace(compose_config, "schedule=constant", "optimizer.lr=0.03", "trainer.max_steps=50")) == {0.03}


def test_a_linear_warm_up_rises_evenly_to_the_full_rate() -> None:
    schedule = Schedule(2.0, constant(), warmup_steps=4, warmup_factor=0.2, warmup_shape="linear")
    assert [schedule(step) for step in range(6)] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])


def test_a_constant_warm_up_keeps_its_part_and_then_ends() -> None:
    schedule = Schedule(2.0, constant(), warmup_steps=3, warmup_factor=0.1, warmup_shape="constant")
    assert [schedule(step) for step in range(5)] == pytest.approx([0.2, 0.2, 0.2, 2.0, 2.0])


def test_a_milestone_inside_the_warm_up_counts_from_its_end_on() -> None:
    schedule = Schedule(1.0, steps_down([2, 6], 0.1), warmup_steps=4, warmup_factor=0.5, warmup_shape="constant")
    assert [schedule(step) for step in range(8)] == pytest.approx([0.5] * 4 + [0.1] * 2 + [0.01] * 2)


@pytest.mark.parametrize("max_steps", [64, 440, 64_000, 100_000])
def test_scaled_milestones_lie_at_the_same_parts(max_steps: int) -> None:
    first, second = scaled([32_000, 48_000], 64_000, max_steps)
    assert (first, second) == (max_steps // 2, max_steps * 3 // 4)
