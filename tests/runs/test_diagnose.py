"""`diagnose` names the defects that are planted into a network, and none in the networks of the project."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from depthlab.commands import diagnose as command
from depthlab.config.check import check
from depthlab.config.registry import components, presets
from depthlab.config.schema import TrainConfig
from depthlab.errors import InputError
from depthlab.runs.build import build_data, build_network
from depthlab.runs.diagnose import Diagnosis, Sample, diagnose, diagnose_model
from depthlab.runs.gradient_defects import growth_defects
from depthlab.runs.run import run

from ..conftest import Compose, compose_tree
from ..typing_in import answer

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
    ("name", "plant", "kind", "where"),
    [*PLANTED[::2], *(pytest.param(*each, marks=pytest.mark.slow) for each in PLANTED[1::2])],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_defect_is_named_with_its_place_and_nothing_else_is(
    compose_config: Compose, name: str, plant: Callable[[Any], None], kind: str, where: str
) -> None:
    found = planted(compose_config, name, plant)
    assert [(defect.kind, defect.where) for defect in found.defects] == [(kind, where)]


@pytest.mark.parametrize(
    ("name", "plant", "kind", "where"),
    [IN_PLAIN[0], *(pytest.param(*each, marks=pytest.mark.slow) for each in IN_PLAIN[1:])],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_it_is_named_in_a_plain_network_too(
    compose_config: Compose, name: str, plant: Callable[[Any], None], kind: str, where: str
) -> None:
    found = planted(compose_config, "plain20", plant)
    assert any(defect.kind == kind and defect.where.startswith(where) for defect in found.defects)


MODELS = sorted(name for name, (family, _) in presets("model").items() if not components("model")[family].extension)
SMALL = ("plain20", "resnet20", "restorer20", "dense")
OPTIONS = [pytest.param(name, marks=[] if name.endswith(SMALL) else [pytest.mark.slow]) for name in [*MODELS, "dense"]]


@pytest.mark.parametrize("name", OPTIONS)
def test_no_network_of_the_project_has_a_defect(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("depthlab.runs.network_speed.TURNS", 1)  # its time is no defect
    restoring = RESTORING if "restorer" in name else ()
    found = diagnose_model(compose_config(*restoring, f"model={name}", *FITTING.get(name, ())))
    assert found.defects == []
    assert all(row["trains"] and row["moved"] for row in found.tensors)
    overflows = found.gradients["streams"][0]["verdict"] == "overflows float32 on its way to the input"
    assert overflows == (name == "plain1202")  # it grows by 1.15 a layer
    assert overflows or all(row["gradient"] > 0 for row in found.tensors)
    assert sum(row["num_params"] for row in found.layers) == found.network["num_params"]
    assert sum(row["num_macs"] for row in found.layers) == found.network["num_macs"]


def test_an_explosion_that_grows_layer_by_layer_and_infinities_are_defects() -> None:
    names = [f"layer{idx}" for idx in range(10)]
    steady, growing, plain = ([factor**idx for idx in range(10)] for factor in (0.9, 0.5, 1 / 1.2))
    assert growth_defects(names, steady, 1 / 0.9) == growth_defects(names, plain, 1.2) == []
    assert [defect.where for defect in growth_defects(names, growing, 2.0)] == ["the whole network"]
    sudden = [float("inf")] * 2 + steady[2:]
    assert [defect.where for defect in growth_defects(names, sudden, 1.1)] == ["layer1"]
    assert growth_defects(names, [float("inf"), 2e37, 2e36, 2e35, 2e34, 2e33, 2e32, 2e31, 2e30, 2e29], 10.0)[
        0
    ].where == ("the whole network")


def test_moving_averages_that_exploded_and_a_shortcut_in_a_plain_network_are_named(compose_config: Compose) -> None:
    def explode(network: Any) -> None:
        network.layer1[0].bn1.running_var.fill_(float("inf"))

    def add_a_shortcut(network: Any) -> None:
        network.layer1[1].residual = True

    for plant, kind, where in (
        (explode, "exploded batch norm", "layer1.0.bn1"),
        (add_a_shortcut, "undeclared shortcut", "layer1.1"),
    ):
        found = planted(compose_config, "plain20", plant)
        assert [(defect.kind, defect.where) for defect in found.defects] == [(kind, where)]


def test_hooks_of_tensors_count_and_values_that_are_no_numbers_are_named(compose_config: Compose) -> None:
    def scale(network: Any) -> None:
        network.layer3[0].conv1.weight.register_hook(lambda gradient: 1e5 * gradient)

    def spoil(network: Any) -> None:
        network.layer2[1].conv1.weight.data[0] = float("nan")

    def divide_by_zero(network: Any) -> None:
        network.fc.register_forward_hook(lambda module, inputs, output: output / 0)

    for plant, kind, where in (
        (scale, "exploding gradient", "layer3.0.conv1"),
        (spoil, "not a number", "layer2.1.conv1.weight"),
        (divide_by_zero, "not a number", "the output"),
    ):
        found = planted(compose_config, "plain20", plant)
        assert [(defect.kind, defect.where) for defect in found.defects] == [(kind, where)]


def test_a_network_that_cannot_compute_is_refused_with_its_defects(compose_config: Compose) -> None:
    def narrow(network: Any) -> None:
        network.colour.fc = nn.Linear(32, 7)

    with pytest.raises(InputError, match=r"cannot compute images of 1 x 8 x 8.*Defect: colour.fc has 7 outputs"):
        planted(compose_config, "two_stream_dense", narrow)


def test_a_frozen_backbone_is_no_defect_and_a_part_that_trains_then_is(compose_config: Compose) -> None:
    config = compose_config("model=resnet20", "model.depth=8", "model.weights=unused.ckpt", "model.freeze=backbone")
    network, sample = built(config)
    found = diagnose(network, config, sample)
    assert {defect.kind for defect in found.defects} <= {"zero gradient"}
    assert [row["tensor"] for row in found.tensors if row["trains"]] == ["fc.weight", "fc.bias"]
    assert [row["moved"] for row in found.tensors] == [False] * (len(found.tensors) - 2) + [True] * 2


def test_the_gradients_are_those_of_the_mean_loss_and_nothing_of_the_caller_changes(compose_config: Compose) -> None:
    config = compose_config("model=resnet20", "model.depth=8")
    network, sample = built(config)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    found = diagnose(network, config, sample)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state()) and (numpy_state == np.random.get_state()[1]).all()  # type: ignore[index]
    assert all(parameter.grad is None for parameter in network.parameters())
    nn.functional.cross_entropy(network.train()(sample.images), sample.targets).backward()
    expected = {name: float(parameter.grad.norm()) for name, parameter in network.named_parameters()}  # type: ignore[union-attr]
    for row in found.tensors:
        assert row["gradient"] == pytest.approx(expected[row["tensor"]], rel=1e-4)
    again = diagnose_model(config)
    assert (again.tensors, again.layers, again.units) == (found.tensors, found.layers, found.units)
    assert torch.equal(state, torch.random.get_rng_state())


def typed_in(*words: str) -> tuple[int, str]:
    return answer(lambda: command.main(sys.argv[1:]), *words)


DIGITS = ("data=digits", "trainer=cpu", "model.depth=8")


@pytest.mark.slow
def test_the_command_prints_a_table_or_json_and_writes_a_page(tmp_path: Path) -> None:
    words = (*DIGITS, "model=plain20", "against=dense", f"out={tmp_path}")
    code, said = typed_in(*words)
    assert code == 0, said
    for part in ("Defects: none.", "Against dense: measured in turns.", "layer3.0.conv2", f"page: {tmp_path}"):
        assert part in said
    code, said = typed_in(*words, "--json")
    found = json.loads(said)
    assert found == json.loads((tmp_path / "diagnosis.json").read_text())
    assert [row["network"] for row in found["speed"]] == ["plain8", "dense"]
    assert all(row["forward_ms"] > 0 and row["kept_mib"] > 0 for row in found["speed"])
    page = (tmp_path / "diagnosis.html").read_text()
    assert "layer3.0.conv2.weight" in page and "data:image/png;base64" in page and 'src="http' not in page


@pytest.mark.slow
def test_a_terminal_of_80_columns_shows_every_layers_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, said = typed_in(*DIGITS, "model=resnet20", "model.two_stream=true", "against=none", f"out={tmp_path}")
    assert code == 0, said
    table = said[said.index("\n layer ") :]
    assert "\N{HORIZONTAL ELLIPSIS}" not in table
    rows = [line.split() for line in table.splitlines()]
    folded = [a[0] + b[0] for a, b in pairwise(rows) if len(a) > 1 and len(b) == 1]
    assert {"brightness.layer3.0.conv2", "colour.layer1.0.conv1"} <= {*folded, *(row[0] for row in rows if row)}


def test_a_run_is_diagnosed_with_its_last_weights(tmp_path: Path) -> None:
    short = ("trainer.num_threads=1", "logger=csv", "trainer.max_steps=3", "trainer.val_every_steps=3")
    logs = f"paths.log_dir={tmp_path / 'logs'}"
    directory = run(check(compose_tree("model=resnet20", *DIGITS, *short, logs)), "").directory
    code, said = typed_in(f"run={directory}", f"out={tmp_path / 'out'}", "--json")
    assert code == 0, said
    found = json.loads(said)
    assert found["weights"] == f"last weights of {directory.name}" and found["network"]["name"] == "resnet8"
    initial = diagnose_model(check(compose_tree("model=resnet20", *DIGITS)))
    norms = [{row["tensor"]: row["gradient"] for row in rows} for rows in (found["tensors"], initial.tensors)]
    assert norms[0].keys() == norms[1].keys() and norms[0] != norms[1]


def test_defects_give_the_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from depthlab.runs import diagnose as module

    build = module.build_network

    def with_defect(*arguments: Any) -> nn.Module:
        network = build(*arguments)
        zero_a_scale(network)
        return network

    monkeypatch.setattr(module, "build_network", with_defect)
    code, said = typed_in("data=digits", "model=resnet20", f"out={tmp_path}")
    assert (code, said.count("scale: layer2")) == (1, 1) and "batch norm without scale: layer2.1.bn2." in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model=resnet21",), "model=resnet21: no such option. Did you mean resnet"),
        (("model=resnet20", "against=densse"), "model=densse: no such option. Did you mean dense?"),
        (("modl=resnet20",), "modl=resnet20: no such key or group. Did you mean model?"),
        (("run=nowhere",), "run=nowhere: there is no such directory or file."),
        (("run=nowhere", "model=resnet20"), "a run has its own configuration."),
        (("model=densenet121", "data=digits"), "the network cannot compute images of 1 x 8 x 8"),
        (("model=resnet20", "data=digits", "against=densenet121"), "not for images of 8 x 8 pixels"),
        (("--jsn",), "--jsn: no such option."),
        (("out=",), "out=: what?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_refused_in_a_few_lines(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    code, said = typed_in(*words, *(() if "out=" in words else (f"out={tmp_path / 'out'}",)))
    assert (code, "Traceback" in said, (tmp_path / "out").exists()) == (2, False, False)
    assert message in said and said.count("\n") <= 3


@pytest.mark.slow
@pytest.mark.real_data
def test_the_experiment_makes_the_report_on_two_streams(data_dir: Path, tmp_path: Path) -> None:
    """124 tensors in 22,357,012 parameters, beside 422,996: the numbers of the system that it replaces."""
    code, said = typed_in("experiment=diagnosis", f"paths.data_dir={data_dir}", f"out={tmp_path}", "--json")
    assert code == 0, said
    found = json.loads(said)
    assert [row["num_params"] for row in found["speed"]] == [22_357_012, 422_996]
    assert len(found["tensors"]) == 124 and all(row["gradient"] > 0 and row["moved"] for row in found["tensors"])
    assert [row["num_params"] for row in found["streams"]["alone"]] == [11_181_642, 11_175_370]
    assert found["streams"]["difference"] == 0
