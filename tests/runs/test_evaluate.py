"""Results belong to the last weights, where other checkpoints lie beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from depthlab.commands.evaluate import main
from depthlab.config.check import check
from depthlab.records.checkpoints import list_checkpoints, load_checkpoint
from depthlab.records.record import read_record
from depthlab.runs import assess
from depthlab.runs.build import build_data
from depthlab.runs.evaluate import evaluate_run, load_run
from depthlab.runs.open_run import open_run
from depthlab.runs.run import run

from ..conftest import Compose
from ..whole_runs import set_status
from .test_open_run import folder, train  # noqa: F401 - a fixture of two runs


@pytest.fixture
def directory(compose_config: Compose) -> Path:
    """A run of 12 steps that leaves the checkpoints of steps 8 and 12."""
    small = ("model=resnet20", "model.depth=8", "trainer.precision=32-true", "checkpoint.every_steps=4")
    return run(compose_config(*small), "").directory


def loss_of(directory: Path, checkpoint: Path) -> float:
    """Of a checkpoint's weights, by a plain pass over the test images."""
    network, record = load_run(directory)
    network.load_state_dict(load_checkpoint(checkpoint)["network"])
    images, labels = build_data(check(record["config"])).on_device("test", torch.device("cpu")).eval_batch(0, 360)
    with torch.no_grad():
        return F.cross_entropy(network(images), labels).item()


def test_every_result_is_of_the_last_weights(directory: Path) -> None:
    last, before = list_checkpoints(directory)
    expected = loss_of(directory, last)
    assert loss_of(directory, before) != pytest.approx(expected, rel=1e-3)
    assert read_record(directory)["metrics"]["test/loss"] == pytest.approx(expected, rel=1e-5)
    assert evaluate_run(directory)["test/loss"] == read_record(directory)["metrics"]["test/loss"]
    weights = load_checkpoint(last)["network"]
    assert all(torch.equal(value, weights[name]) for name, value in load_run(directory)[0].state_dict().items())


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def runs(folder: Path) -> list[Path]:  # noqa: F811
    """Two runs of the digits, seeds 1 and 2."""
    return sorted(path.parent for path in folder.rglob("record.json"))


@pytest.mark.parametrize(
    ("status", "message"), [("running", "is not finished (running, step 60)."), ("diverged", "not numbers any more")]
)
def test_a_run_without_a_result_is_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str, message: str
) -> None:
    directory = Path(shutil.copytree(runs[0], tmp_path / runs[0].name))
    set_status(directory, status)
    assert main([f"run={directory}"]) == 2
    said = capsys.readouterr()
    assert message in said.err and not said.out


@pytest.mark.usefixtures("full_size_figures")
@pytest.mark.slow
def test_the_command_says_more_than_the_record(
    runs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = said(capsys, f"run={runs[0]}", f"out={tmp_path / 'out'}")
    record, summary = read_record(runs[0]), result["summary"]
    assert result["metrics"] == result["recorded"] == {name: record.metrics[name] for name in result["metrics"]}
    assert summary["err"] == result["recorded_err"] == record.metrics["test/err"]
    assert summary["loss"] == pytest.approx(record.metrics["test/loss"], rel=1e-4)
    assert 0 < summary["ece"] < 1
    assert sum(row["support"] for row in summary["classes"].values()) == summary["num_images"] == 360
    assert summary["confused"][0]["images"] >= summary["confused"][-1]["images"] > 0
    with Image.open(tmp_path / "out" / "reliability.png") as figure:
        assert figure.size > (300, 300)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["summary"] == summary
    assert main([f"run={runs[0]}"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("test/err", "recorded", "precision", "taken for"))


def test_other_weights_splits_and_mirrors(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    record = read_record(runs[0])
    assert record.metrics_ema is not None
    averaged = said(capsys, f"run={runs[0]}", "weights=ema", "split=val")
    assert averaged["summary"]["err"] == averaged["recorded_err"] == record.metrics_ema["val/err"]
    mirrored = said(capsys, f"run={runs[0]}", "tta=flip")
    assert mirrored["summary"]["err"] != record.metrics["test/err"]
    assert "recorded_err" not in mirrored
    alone = said(capsys, f"run={next((runs[0] / 'checkpoints').glob('*.ckpt'))}")
    assert alone["summary"]["err"] == record.metrics["test/err"]


def test_an_ensemble_is_the_mean_of_probabilities(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    result = said(capsys, f"run={runs[0]}", f"ensemble={runs[1]}")
    opened = [open_run(each) for each in runs]
    images, labels, _ = opened[0].data()
    mean = np.mean([each.predict(images).probabilities for each in opened], axis=0)
    found = result["ensemble"]
    assert found["err"] == pytest.approx(100 * (mean.argmax(axis=1) != labels).mean())
    assert found["members"] == [pytest.approx(read_record(each).metrics["test/err"]) for each in runs]
    assert found["gain"] == pytest.approx(np.mean(found["members"]) - found["err"])
    assert found["interval"][0] < found["gain"] < found["interval"][1]
    pair = result["pairs"][0]
    assert pair["only_first"] - pair["only_second"] == round(3.6 * (found["members"][0] - found["members"][1]))
    assert main([f"run={runs[0]}", f"ensemble={runs[1]}"]) == 0
    shown = capsys.readouterr().out
    assert "McNemar" in shown and "Mean probabilities of 2 runs on digits test, 360 images" in shown


def test_mcnemars_test_is_the_exact_one() -> None:
    # 5 and 15 discordant images: 2 * sum of binomials up to 5 of 20 at one half.
    labels = np.zeros(30, dtype=np.int64)
    first, second = (np.zeros((30, 2)) for _ in range(2))
    first[:5, 1] = second[5:20, 1] = 1
    found = assess.compare(first, second, labels)
    assert (found["only_first"], found["only_second"]) == (5, 15)
    assert found["p"] == pytest.approx(0.04138946533203125)
    assert assess.compare(first, first, labels)["p"] == 1


def test_calibration_is_the_weighted_gap_of_the_bins() -> None:
    # Nine of ten right at a confidence of 0.6, and all of ten at 0.95: (0.3 + 0.05) / 2.
    confidence = np.repeat([0.6, 0.95], 10)
    labels = np.array([1, *[0] * 19])
    found = assess.summarize(np.log(np.stack([confidence, 1 - confidence], axis=1)), labels, ["a", "b"])
    assert found["ece"] == pytest.approx(0.175, abs=1e-6)
    assert found["reliability"] == [[pytest.approx(0.6), 0.9, 10], [pytest.approx(0.95), 1.0, 10]]
    assert found["confused"] == [{"class": "b", "predicted": "a", "images": 1}]
    assert found["err"] == 5


def test_ensembles_need_one_question(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turned = train(tmp_path, "data.classes=['1','0','2','3','4','5','6','7','8','9']", "trainer.max_steps=1")
    fewer = train(tmp_path, "data.classes=['1','2']", "trainer.max_steps=1")
    (tmp_path / "loose").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "loose" / "a.gif")
    cases = {
        "the same classes in another order": f"ensemble={turned}",
        "other classes (1, 2)": f"ensemble={fewer}",
        "data=mnits: there is no such folder": "data=mnits",
        "A best checkpoint is not kept": "weights=best",
        "data=image_folder: it has no defaults": "data=image_folder",
        "tta=rotate: the choices are flip": "tta=rotate",
        "split=tets: there is no such split. Did you mean test?": "split=tets",
        "a folder for each class is expected": f"data={tmp_path / 'loose'}",
    }
    for message, argument in cases.items():
        assert main([f"run={runs[0]}", argument]) == 2
        assert message in capsys.readouterr().err


def test_other_images_of_the_same_classes(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels, classes = open_run(runs[0]).data()
    for idx in range(40):
        place = tmp_path / "images" / classes[labels[idx]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[idx, ..., 0]).save(place / f"{idx}.png")
    predictions = open_run(runs[0]).predict(images[:40])
    found = said(capsys, f"run={runs[0]}", f"data={tmp_path / 'images'}")
    assert found["summary"]["err"] == predictions.error(labels[:40])
    again = said(capsys, f"run={runs[0]}", "data=digits")
    assert again["summary"]["err"] == read_record(runs[0]).metrics["test/err"]
    shutil.move(tmp_path / "images" / "3", tmp_path / "images" / "three")
    assert main([f"run={runs[0]}", f"data={tmp_path / 'images'}"]) == 2
    assert "three is no class of the run" in capsys.readouterr().err
