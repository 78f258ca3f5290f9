"""Attributions are captum's, and the command draws them for a run and its twin."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Occlusion, Saliency
from PIL import Image
from torch.nn import functional as F

from depthlab.commands import explain as command
from depthlab.config.check import check
from depthlab.errors import InputError
from depthlab.runs.explain import OPACITY, Attributions, explain, overlay
from depthlab.runs.open_run import OpenRun, open_run
from depthlab.runs.run import run

from ..conftest import compose_tree
from ..typing_in import answer

QUICK = ("data=digits", "trainer=cpu", "trainer.num_threads=1", "logger=csv", "trainer.max_steps=30")


def train(folder: Path, *overrides: str) -> Path:
    settings = (*QUICK, "trainer.val_every_steps=30", f"paths.log_dir={folder}", *overrides)
    return run(check(compose_tree(*settings)), "python train.py").directory


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A residual run and its plain twin on the digits."""
    logs = tmp_path_factory.mktemp("explain") / "logs"
    residual, plain = (train(logs, f"model={kind}20", "model.depth=8") for kind in ("resnet", "plain"))
    return residual, plain


@pytest.fixture
def opened(twins: tuple[Path, Path]) -> OpenRun:
    return open_run(twins[0])


def scaled(maps: torch.Tensor) -> np.ndarray:
    largest = maps.amax(dim=(1, 2), keepdim=True)
    return (maps / largest.where(largest > 0, 1)).numpy()  # a map without a positive value stays zero


def test_gradcam_is_captums_without_its_negative_part_at_the_images_size(opened: OpenRun) -> None:
    images = opened.data("test").images[:40]  # more than a batch
    network, inputs = opened.network(), opened.preprocess(images)
    labels = network(inputs).argmax(dim=1)
    expected = LayerGradCam(network, network.get_submodule("layer2")).attribute(inputs, target=labels)
    expected = F.interpolate(expected.detach(), (8, 8), mode="bilinear")[:, 0].relu()
    found = explain(opened, images, layer="layer2")
    assert np.abs(found.maps - scaled(expected)).max() < 1e-5
    assert found.maps.std() > 0.05 and found.layer == "layer2"
    assert found.classes == [opened.classes[idx] for idx in labels.tolist()]
    assert explain(opened, images[:2]).layer == "layer3"


def test_saliency_and_occlusion_are_captums(opened: OpenRun) -> None:
    images = opened.data("test").images[:4]
    network, inputs = opened.network(), opened.preprocess(images)
    labels = network(inputs).argmax(dim=1)
    saliency = Saliency(network).attribute(opened.preprocess(images).requires_grad_(), target=labels).amax(dim=1)
    assert np.abs(explain(opened, images, "saliency").maps - scaled(saliency.detach())).max() < 1e-5
    hidden = Occlusion(network).attribute(inputs, (1, 2, 2), strides=(1, 1, 1), target=labels, baselines=0)[:, 0].relu()
    assert np.abs(explain(opened, images, "occlusion").maps - scaled(hidden.detach().float())).max() < 1e-5


def test_it_is_deterministic_and_leaves_network_and_random_state_alone(opened: OpenRun) -> None:
    images = opened.data("test").images[:3]
    state, weights = torch.random.get_rng_state(), {k: v.clone() for k, v in opened.network().state_dict().items()}
    one, other = explain(opened, images), explain(opened, images)
    assert (one.maps == other.maps).all()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, weights[name]) for name, value in opened.network().state_dict().items())
    assert all(parameter.grad is None for parameter in opened.network().parameters())


def test_an_overlay_is_the_image_where_the_map_is_zero_and_coloured_where_it_is_one() -> None:
    image = np.full((2, 2, 1), 200, np.uint8)
    drawn = overlay(image, np.array([[0, 1], [0, 0]], np.float32))
    assert (drawn[0, 0] == 200).all() and (drawn[1] == 200).all()
    bright = np.array([0.988362, 0.998364, 0.644924])  # the last colour of inferno
    assert drawn[0, 1] == pytest.approx((1 - OPACITY) * 200 + OPACITY * 255 * bright, abs=1)


def test_the_command_draws_a_run_and_its_twin_on_one_sheet(twins: tuple[Path, Path], tmp_path: Path) -> None:
    words = (f"run={twins[0]}", f"against={twins[1]}", "images=test", "number=3")
    sheets = []
    for name in ("one", "other"):
        out = tmp_path / name
        code, said = answer(lambda: command.main(sys.argv[1:]), *words, f"out={out}", "--json")
        assert code == 0, said
        rows = json.loads(said)["images"]
        assert [row["run"] for row in rows] == [twins[0].name] * 3 + [twins[1].name] * 3
        labels = open_run(twins[0]).data("test").labels[:3].tolist()
        assert [int(row["label"]) for row in rows] == labels * 2
        assert all(Image.open(row["file"]).size == (8, 8) for row in rows)
        sheets.append((out / "sheet.png").read_bytes())
    assert sheets[0] == sheets[1]
    pixels = np.asarray(Image.open(tmp_path / "one" / "sheet.png"))
    columns = np.split(pixels[20 : 20 + 128, 6:], [134, 268], axis=1)
    assert len(columns) == 3 and all(
        np.abs(a[:, :128].astype(int) - b[:, :128]).mean() > 1 for a, b in [columns[:2], columns[1:]]
    )


def test_a_picture_of_a_folder_is_explained(twins: tuple[Path, Path], tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    code, said = answer(
        lambda: command.main(sys.argv[1:]), f"run={twins[0]}", f"images={tmp_path}", f"out={tmp_path / 'x'}"
    )
    assert code == 0 and "red.png" in said and (tmp_path / "x" / "sheet.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("layer=layer4",), "has no such layer. Did you mean layer"),
        (("layer=fc",), "layer=fc has no maps (n, C, H, W) for Grad-CAM."),
        (("method=gradcamm",), "method=gradcamm: no such method. Did you mean gradcam?"),
        (("method=saliency", "layer=layer2"), "Only gradcam has a layer."),
        (("images=nowhere",), "nowhere: there is no such file or folder."),
        (("number=0",), "number=0: an integer >= 1 is expected."),
        (("metod=saliency",), "metod=saliency: no such option. Did you mean method?"),
        (("run=nowhere",), "run=nowhere: there is no such directory or file."),
    ],
    ids=str,
)
def test_mistakes_are_refused_by_name(
    twins: tuple[Path, Path], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    given = (f"run={twins[0]}", "images=test", f"out={tmp_path / 'out'}", *words)
    code, said = answer(lambda: command.main(sys.argv[1:]), *given)
    assert (code, "Traceback" in said) == (2, False)
    assert message in said
    assert not (tmp_path / "out").exists()


def test_a_run_without_classes_is_refused(tmp_path: Path) -> None:
    restoring = (
        "task=regression",
        "data=noisy_digits",
        "model=plain_restorer20",
        "model.depth=4",
        "trainer.max_steps=2",
    )
    directory = train(tmp_path / "logs", *restoring, "trainer.val_every_steps=2")
    with pytest.raises(InputError, match="it names no classes"):
        explain(open_run(directory), open_run(directory).data("test").images[:1])


def test_without_captum_the_message_says_what_to_install(opened: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(InputError, match=r"captum is not installed. Type: pip install"):
        explain(opened, opened.data("test").images[:1])


def test_densely_connected_networks_and_two_streams_have_a_default_layer(tmp_path: Path) -> None:
    small = ("model.stem=small", "model.block_config=[1,1]", "model.growth_rate=4", "model.num_init_features=8")
    for words, layer in (
        (("model=densenet121", *small), "features.denseblock2"),
        (("model=resnet20", "model.depth=8", "model.two_stream=true"), "colour.layer3"),
    ):
        opened = open_run(train(tmp_path / "logs", *words, "trainer.max_steps=2", "trainer.val_every_steps=2"))
        found: Attributions = explain(opened, opened.data("test").images[:1])
        assert found.layer == layer and np.isfinite(found.maps).all()
