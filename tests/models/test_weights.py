"""Starting from weights: strict, plain tensors only, refused by name; and what stays frozen."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from torch import nn

from depthlab.errors import InputError
from depthlab.models import (
    Dense,
    TwoStream,
    cifar_net,
    densenet,
    download_weights,
    freeze,
    load_weights,
    read_weights,
    resnet18,
)
from depthlab.models.freezing import classifier_prefixes
from depthlab.optim.parameter_groups import parameter_groups


def state(**arguments: Any) -> dict[str, torch.Tensor]:
    return cifar_net(8, **arguments).state_dict()


def test_every_tensor_is_loaded() -> None:
    network, given = cifar_net(8), state()
    assert load_weights(network, given, "w", False) == len(given)
    assert all(torch.equal(value, given[name]) for name, value in network.state_dict().items())


def test_old_files_without_counters_of_batches_are_loaded() -> None:
    network, given = cifar_net(8), {k: v for k, v in state().items() if not k.endswith("num_batches_tracked")}
    assert load_weights(network, given, "w", False) == len(given)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in given.items())


def test_another_number_of_classes_names_the_keys_and_how_to_drop_the_classifier() -> None:
    network = cifar_net(8, num_classes=5)
    before = network.state_dict()["conv1.weight"].clone()
    with pytest.raises(InputError) as caught:
        load_weights(network, state(), "some.pt", False)
    message = str(caught.value)
    assert message.startswith(
        "model.weights=some.pt: fc.weight is 10x64 there and 5x64 here; fc.bias is 10 there and 5"
    )
    assert "model.drop_classifier=true" in message
    assert torch.equal(network.state_dict()["conv1.weight"], before)


def test_without_its_classifier_everything_else_is_loaded() -> None:
    network, given = cifar_net(8, num_classes=5), state()
    classifier = network.fc.weight.detach().clone()
    assert load_weights(network, given, "w", True) == len(given) - 2
    assert torch.equal(network.fc.weight, classifier)
    assert torch.equal(network.conv1.weight, given["conv1.weight"])
    assert torch.equal(network.bn1.running_mean, given["bn1.running_mean"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (cifar_net(14).state_dict(), r"layer1\.1\.conv1\.weight is not of this network; .* and \d+ more"),
        (cifar_net(8, in_channels=1).state_dict(), r"conv1\.weight is 16x1x3x3 there and 16x3x3x3 here"),
        (cifar_net(8, shortcut="B").state_dict(), r"layer2\.0\.downsample\.0\.weight is not of this network"),
    ],
)
def test_weights_of_another_network_are_refused_by_their_first_keys(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_weights(cifar_net(8), given, "w", False)
    incomplete = {name: value for name, value in state().items() if name != "bn1.bias"}
    with pytest.raises(InputError, match=r"bn1\.bias is not there\. They are of another network"):
        load_weights(cifar_net(8), incomplete, "w", True)


@pytest.mark.parametrize(("here", "there"), [(0.5, 0.0), (0.0, 0.5)])
def test_random_masks_are_not_taken_over(here: float, there: float) -> None:
    network = cifar_net(8, dropout=here)
    load_weights(network, state(dropout=there), "w", False)
    if network.noise is not None:
        assert network.noise.num_batches == 0


def test_a_file_of_a_state_dict_or_a_checkpoint_is_read(tmp_path: Path) -> None:
    given = state()
    torch.save(given, tmp_path / "state.pt")
    torch.save({"step": 3, "network": given}, tmp_path / "step.ckpt")
    for name in ("state.pt", "step.ckpt"):
        assert read_weights(tmp_path / name).keys() == given.keys()


class Mischief:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {1: torch.zeros(1)}, Mischief()])
def test_a_file_that_holds_anything_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w\.pt holds no "):
        read_weights(tmp_path / "w.pt")


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps("text")[:-2])
    with pytest.raises(InputError, match="holds no weights"):
        read_weights(tmp_path / "w.pt")
    with pytest.raises(InputError, match="no such file"):
        read_weights(tmp_path / "none.pt")


def test_published_weights_come_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    theirs = resnet18().state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(theirs, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")  # the name in torchvision's address
    network = resnet18()
    load_weights(network, download_weights("resnet18", "IMAGENET1K_V1"), "IMAGENET1K_V1", False)
    assert torch.equal(network.conv1.weight, theirs["conv1.weight"])


class Touch:
    """Makes a file where it is unpickled as code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_in_the_place_of_a_download_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save({"conv1.weight": Touch(tmp_path / "ran")}, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        download_weights("resnet18", "IMAGENET1K_V1")
    assert not (tmp_path / "ran").exists()


def test_weights_that_torchvision_does_not_have_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="IMAGENET1K_V9: torchvision's weights for resnet50 are IMAGENET1K_V1"):
        download_weights("resnet50", "IMAGENET1K_V9")
    with pytest.raises(InputError, match="torchvision publishes no weights for resnet20"):
        download_weights("resnet20", "DEFAULT")


def test_a_download_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError, match=r"IMAGENET1K_V1: the download failed \(no route to host\)"):
        download_weights("resnet18", "IMAGENET1K_V1")


def test_a_download_of_other_bytes_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = tmp_path / "served.pth"
    torch.save(resnet18().state_dict(), served)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: urlopen(served.as_uri()))
    with pytest.raises(InputError, match=r"the download failed .*hash"):
        download_weights("resnet18", "IMAGENET1K_V1")
    assert not [*(tmp_path / "checkpoints").iterdir()]


def training(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("what", "first"),
    [("none", "conv1.weight"), ("until:layer1", "layer2.0.conv1.weight"), ("backbone", "fc.weight")],
)
def test_what_is_frozen_is_everything_up_to_the_stage(what: str, first: str) -> None:
    network = cifar_net(8)
    names = [name for name, _ in network.named_parameters()]
    freeze(network, what)
    assert training(network) == set(names[names.index(first) :])


def test_frozen_batch_norm_keeps_its_statistics_in_training_mode() -> None:
    network = cifar_net(8)
    freeze(network, "until:layer2")
    network.train()
    nn.init.normal_(network.bn1.running_mean)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.randn(8, 3, 8, 8) + 3)
    network.bn1.reset_running_stats()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("layer3") for name in changed)


def test_both_streams_are_frozen() -> None:
    network = TwoStream(partial(cifar_net, 8))
    freeze(network, "backbone")
    assert training(network) == {f"{s}.fc.{p}" for s in ("colour", "brightness") for p in ("weight", "bias")}
    assert classifier_prefixes(network) == ("colour.fc.", "brightness.fc.")


def test_every_family_has_stages_to_freeze() -> None:
    dense = Dense()
    freeze(dense, "until:layer2")
    assert training(dense) == {f"{name}.{p}" for name in ("layer3", "fc") for p in ("weight", "bias")}
    network = densenet(growth_rate=4, block_config=(1, 1), num_init_features=8)
    freeze(network, "until:denseblock1")
    assert min(training(network)) == "classifier.bias"
    assert "features.transition1.conv.weight" in training(network)
    assert "features.denseblock1.denselayer1.conv1.weight" not in training(network)


@pytest.mark.parametrize("what", ["until:layer9", "layer1", "until:", "head"])
def test_a_stage_that_is_none_is_refused_by_name(what: str) -> None:
    with pytest.raises(ValueError, match=f"freeze='{what}': .*layer1, layer2, layer3"):
        freeze(cifar_net(8), what)


def test_a_network_that_names_no_classifier_loads_whole_and_cannot_drop_it() -> None:
    from torch import nn

    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert load_weights(network, dict(network.state_dict()), "theirs", drop_classifier=False) == 2
    with pytest.raises(InputError, match=r"Sequential does not say which part is its classifier"):
        load_weights(network, dict(network.state_dict()), "theirs", drop_classifier=True)
    with pytest.raises(InputError, match=r"backbone_lr_factor=0\.5: Sequential does not say"):
        parameter_groups(network, 0.0, True, 0.5)
