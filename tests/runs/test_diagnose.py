"""`diagnose` names the defects that are planted into a network, and none in the networks of the project."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthlab.config.schema import TrainConfig
from depthlab.runs.build import build_data, build_network
from depthlab.runs.diagnose import Diagnosis, Sample, diagnose, diagnose_model

from ..conftest import ROOT, Compose

RESTORING = ("task=regression", "data=noisy_digits")
FITTING = {"densenet121": ("model.stem=small",), "densenet": ("model.stem=small",)}


def built(config: TrainConfig) -> tuple[nn.Module, Sample]:
    data = build_data(config)
    images, targets = data.on_device("train", torch.device("cpu")).eval_batch(0, 32)
    return build_network(config, data.image_spec, data.num_outputs), Sample(images, targets, data.num_outputs)


def set_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Replaces what a module computes, in copies of it too."""
    module.__class__ = type(module.__class__.__name__, (module.__class__,), {"forward": forward})


def freeze_a_tensor(network: Any) -> None:
    network.layer2[1].bn1.weight.requires_grad_(False)


def kill_a_layer(network: Any) -> None:
    nn.init.constant_(network.layer2[1].bn1.bias, -100.0)


def drop_the_inner_relu(network: Any) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        f = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return torch.relu(f + self.shortcut(x) if self.residual else f)

    set_forward(network.layer2[1], forward)


def drop_the_last_relu(network: Any) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        f = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        out: Tensor = f + self.shortcut(x) if self.residual else f
        return out

    set_forward(network.layer2[1], forward)


def drop_a_shortcut(network: Any) -> None:
    network.layer2[1].residual = False


def disconnect_a_stream(network: Any) -> None:
    set_forward(network, lambda self, images: self.scores(images)[0])


def remove_a_scale(network: Any) -> None:
    network.layer2[1].bn2 = nn.BatchNorm2d(32, affine=False)


def zero_a_scale(network: Any) -> None:
    nn.init.zeros_(network.layer2[1].bn2.weight)


def zero_weights(network: Any) -> None:
    nn.init.zeros_(network.layer2[1].conv2.weight)


def detach_a_branch(network: Any) -> None:
    network.layer2[1].bn2.register_forward_hook(lambda module, inputs, output: output.detach())


def scale_the_gradient(network: Any) -> None:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return 1e4 * gradients[0]

    network.layer2[1].register_forward_hook(lambda module, inputs, output: Scaled.apply(output))


def widen_the_classifier(network: Any) -> None:
    network.fc = nn.Linear(64, 11)


PLANTED: list[tuple[str, Callable[[Any], None], str, str]] = [
    ("resnet20", freeze_a_tensor, "frozen tensor", "layer2.1.bn1.weight"),
    ("resnet20", kill_a_layer, "dead layer", "layer2.1.bn1"),
    ("resnet20", drop_the_inner_relu, "missing ReLU", "layer2.1.conv2"),
    ("resnet20", drop_the_last_relu, "missing ReLU", "layer2.1"),
    ("resnet20", drop_a_shortcut, "dropped shortcut", "layer2.1"),
    ("two_stream_dense", disconnect_a_stream, "stream not connected", "brightness"),
    ("resnet20", remove_a_scale, "batch norm without scale", "layer2.1.bn2"),
    ("resnet20", zero_a_scale, "batch norm without scale", "layer2.1.bn2"),
    ("resnet20", zero_weights, "weights at zero", "layer2.1.conv2"),
    ("resnet20", detach_a_branch, "detached branch", "layer2.1"),
    ("resnet20", scale_the_gradient, "exploding gradient", "layer2.1.conv2"),
    ("resnet20", widen_the_classifier, "wrong width", "fc"),
]
IN_PLAIN = [case for case in PLANTED if case[0] == "resnet20" and case[2] != "dropped shortcut"]


def planted(compose: Compose, name: str, plant: Callable[[Any], None]) -> Diagnosis:
    config = compose(f"model={name}")
    network, sample = built(config)
    plant(network)
    return diagnose(network, config, sample)


@pytest.mark.parametrize(
    ("name", "plant", "kind", "where"), PLANTED, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_planted_defect_is_named_with_its_place_and_nothing_else_is(
    compose_config: Compose, name: str, plant: Callable[[Any], None], kind: str, where: str
) -> None:
    found = planted(compose_config, name, plant)
    assert [(defect.kind, defect.where) for defect in found.defects] == [(kind, where)]


@pytest.mark.parametrize(
    ("name", "plant", "kind", "where"), IN_PLAIN, ids=lambda value: getattr(value, "__name__", value)
)
def test_it_is_named_in_a_plain_network_too(
    compose_config: Compose, name: str, plant: Callable[[Any], None], kind: str, where: str
) -> None:
    found = planted(compose_config, "plain20", plant)
    assert any(defect.kind == kind and defect.where.startswith(where) for defect in found.defects)


MODELS = sorted(path.stem for path in (ROOT / "configs" / "model").glob("*.yaml"))
SMALL = ("20", "56", "44", "32", "18", "16_4", "dense", "bc100_12")
OPTIONS = [pytest.param(name, marks=[] if name.endswith(SMALL) else [pytest.mark.slow]) for name in [*MODELS, "dense"]]


@pytest.mark.parametrize("name", OPTIONS)
def test_no_network_of_the_project_has_a_defect(compose_config: Compose, name: str) -> None:
    restoring = RESTORING if "restorer" in name else ()
    found = diagnose_model(compose_config(*restoring, f"model={name}", *FITTING.get(name, ())))
    assert found.defects == []
    assert all(row["trains"] and row["moved"] for row in found.tensors)
    overflows = found.gradients["streams"][0]["verdict"] == "overflows float32 on its way to the input"
    assert overflows == (name == "plain1202")  # it grows by 1.15 a layer
    assert overflows or all(row["gradient"] > 0 for row in found.tensors)
    assert sum(row["num_params"] for row in found.layers) == found.network["num_params"]
    assert sum(row["num_macs"] for row in found.layers) == found.network["num_macs"]
