"""Exports answer as the network does, whatever they are loaded with; others are not kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from depthlab.commands.export import main
from depthlab.data.device_images import Normalization
from depthlab.data.pictures import Preprocessing
from depthlab.errors import InputError
from depthlab.runs import export as exporting
from depthlab.runs.export import Deployed, export
from depthlab.runs.open_run import OpenRun, open_run

from ..conftest import slowly
from .test_open_run import train


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    """A run that is right mostly; beside it one of the same recipe with another seed."""
    logs = tmp_path_factory.mktemp("export") / "logs"
    train(logs, "seed=2", "trainer.max_steps=120")
    return open_run(train(logs, "seed=1", "trainer.max_steps=120"))


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are not what these tests are about."""
    monkeypatch.setattr(exporting, "TIMED", {1: 2, 128: 2})


def eager_scores(opened: OpenRun, images: Any) -> Any:
    with torch.inference_mode():
        return opened.network()(opened.preprocess(images)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*slowly("onnx", "torch_export"), "safetensors"])
def test_an_export_answers_as_the_network(opened: OpenRun, name: str, tmp_path: Path) -> None:
    rows = export(opened, tmp_path, name)
    images, labels, _ = opened.data("test")
    expected = eager_scores(opened, images)
    error = 100 * float((expected.argmax(axis=1) != labels).mean())
    assert [row.err for row in rows] == [pytest.approx(error)] * 2
    assert error < 20
    path = next(tmp_path.iterdir())
    for size in (1, 3, 128, 360):
        assert np.abs(loaded(path, images[:size]) - expected[:size]).max() < 1e-4
    assert rows[1].megabytes == path.stat().st_size / 1e6
    assert set(rows[1].latency_ms) == {1, 128}


def loaded(path: Path, images: Any) -> Any:
    """What somebody without this project would do, but for safetensors."""
    if path.suffix == ".onnx":
        return onnxruntime.InferenceSession(str(path)).run(["scores"], {"images": images})[0]
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(torch.from_numpy(images)).detach().numpy()
    reopened = open_run(path)
    assert reopened.config.trainer.precision
    with torch.inference_mode():
        return reopened.network()(reopened.preprocess(images)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_int8_is_smaller_and_within_a_point(opened: OpenRun, kind: str, tmp_path: Path) -> None:
    eager, exact, quantized = export(opened, tmp_path, "onnx", kind)
    assert [path.name for path in tmp_path.iterdir()] == ["model.int8.onnx"]
    assert exact.megabytes is not None
    assert quantized.megabytes is not None
    assert quantized.megabytes < exact.megabytes
    assert eager.err is not None
    assert quantized.err is not None
    assert abs(quantized.err - eager.err) <= 1
    assert quantized.difference is not None
    assert quantized.difference > 1e-4


class Shifted(Deployed):
    """An export that does not compute what the network does."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) + self.shift

    shift = 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "message"), [(0.5, r"differ by up to 0.5 .*, where 0.000"), (None, "its error on the test set is")]
)
def test_an_export_that_answers_otherwise_is_kept_nowhere(
    opened: OpenRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shift: Any,
    message: str,
) -> None:
    write = exporting._write

    def wrong(run: OpenRun, eager: Deployed, path: Path, name: str, weights: str) -> None:
        shifted = Shifted(eager.network, run.preprocessing)
        shifted.shift = torch.tensor([9.0] + [0.0] * 9) if shift is None else shift
        write(run, shifted, path, name, weights)

    monkeypatch.setattr(exporting, "_write", wrong)
    code = main([f"run={opened.place}", "format=torch_export", f"out={tmp_path / 'out'}"])
    said = capsys.readouterr().err
    assert code == 2
    assert "Nothing was kept" in said
    with pytest.raises(InputError, match=message):
        export(opened, tmp_path, "torch_export")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_writes_a_card(opened: OpenRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([f"run={opened.place}", "format=onnx", f"out={out}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in result["rows"]] == ["eager PyTorch, float32", "onnx, float32"]
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.onnx"]
    card = (out / "README.md").read_text()
    for part in (
        "# resnet8 on digits",
        "1,300 training",
        "```\npython train.py\n```",
        "n = 2, sd",
        ", 1 thread.",
        "95 % CI",
        "commit:",
    ):
        assert part in card
    code = card.partition("```python\n")[2].partition("```")[0]
    assert len(code.strip().splitlines()) == 3
    images = opened.data("test").images[:4]
    found: dict[str, Any] = {"images": images}
    exec(code.replace('"model.onnx"', repr(str(out / "model.onnx"))), found)
    assert np.abs(found["scores"] - eager_scores(opened, images)).max() < 1e-4
    assert main([f"run={opened.place}", "format=safetensors", f"out={out}"]) == 0
    assert "largest" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("format=onxx",), "format=onxx: the choices are onnx"),
        (("format=safetensors", "int8=static"), "int8=static: .* with format=onnx"),
        (("format=onnx", "int8=half"), "int8=half"),
        (("format=onnx", "outt=x"), "outt=x: no such option. Did you mean out?"),
        ((), r"format=... is missing"),
    ],
)
def test_mistakes_are_named(
    opened: OpenRun, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"run={opened.place}", *arguments]) == 2
    assert message.split(".*")[0] in capsys.readouterr().err


def test_a_missing_library_is_named(opened: OpenRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = exporting.find_spec
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(InputError, match=r"needs onnxruntime: pip install 'depthlab\[export\]'"):
        export(opened, tmp_path, "onnx")


def test_a_file_of_safetensors_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    save_file({"network.fc.bias": torch.zeros(2)}, tmp_path / "other.safetensors", {"step": "1"})
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("other", "text"):
        with pytest.raises(InputError, match="is not a file that `depthlab export` writes"):
            open_run(tmp_path / f"{name}.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"pip install 'depthlab\[export\]'"):
        open_run(tmp_path / "text.safetensors")


def test_preprocessing_is_the_runs_own() -> None:
    random = np.random.RandomState(0)
    offset, scale = random.rand(5, 7, 3).astype(np.float32), random.rand(3).astype(np.float32) / 255
    preprocessing = Preprocessing(
        Normalization(torch.from_numpy(scale), torch.from_numpy(offset)), (), (5, 7, 3), False
    )
    images = torch.from_numpy(random.randint(0, 256, (4, 5, 7, 3)).astype(np.uint8))
    expected = preprocessing.normalizer("cpu").eval(images)
    assert torch.equal(Deployed(nn.Identity(), preprocessing)(images), expected)
