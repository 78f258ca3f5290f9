"""A run as one object: what it reads, what its network says of images of any kind, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import depthlab
from depthlab.commands import predict as predict_command
from depthlab.commands.predict import main
from depthlab.config.check import check
from depthlab.data.image_files import decode
from depthlab.errors import InputError
from depthlab.records.checkpoints import list_checkpoints, load_checkpoint
from depthlab.records.publishing import publish
from depthlab.runs.open_run import OpenRun, open_run
from depthlab.runs.run import run

from ..conftest import ROOT, Command, compose_tree
from ..records.test_checkpoints import sign
from ..whole_runs import SMALL, set_status

QUICK = ("data=digits", "trainer=cpu", "trainer.num_threads=1", "trainer.val_every_steps=30", "logger=csv")


def train(folder: Path, *overrides: str) -> Path:
    """A short run on the digits, trained far enough to be right mostly."""
    settings = ["trainer.max_steps=60", "logger.every_steps=20", *SMALL, *overrides]
    return run(check(compose_tree(*QUICK, f"paths.log_dir={folder}", *settings)), "python train.py").directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """logs/ with two runs that differ in their seed, the first with averaged weights too."""
    logs = tmp_path_factory.mktemp("open") / "logs"
    train(logs, "callbacks=[ema]", "callbacks.ema.decay=0.9")
    train(logs, "seed=2", "trainer.precision=32-true")
    return logs


@pytest.fixture
def opened(folder: Path) -> Iterator[OpenRun]:
    yield open_run(next(path.parent for path in folder.rglob("record.json") if "seed1" in path.parent.name))


def test_predictions_give_the_recorded_error_to_the_digit(opened: OpenRun) -> None:
    for split in ("train", "val", "test"):
        images, labels, classes = opened.data(split)
        found = opened.predict(images)
        assert found.error(labels) == opened.record.metrics[f"{split}/err"]
        assert classes == found.classes == tuple("0123456789")
        assert found.confusion(labels).sum() == len(labels)
    assert found.error(labels) < 20
    averaged = opened.predict(images, weights="ema")
    assert averaged.error(labels) == opened.record["metrics_ema"]["test/err"]
    assert not np.array_equal(averaged.probabilities, found.probabilities)


def test_predictions_name_the_likeliest_classes(opened: OpenRun) -> None:
    found = opened.predict(opened.data().images[:7], top=3)
    assert (len(found), found.probabilities.shape, found.top.shape) == (7, (7, 10), (7, 3))
    assert np.allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    assert (found.labels == found.probabilities.argmax(axis=1)).all()
    row = found.rows()[2]
    assert list(row) == ["image", "class", "confidence", "class_2", "confidence_2", "class_3", "confidence_3"]
    assert row["class_3"] == found.top_names[2][2]
    assert row["confidence"] >= row["confidence_2"] >= row["confidence_3"]
    assert len(found.table()) == 7
    assert opened.predict(opened.data().images[:1], top=99).top.shape == (1, 10)
    with pytest.raises(InputError, match="top=0"):
        opened.predict(opened.data().images[:1], top=0)


def test_images_of_every_kind_are_the_same_images(opened: OpenRun, tmp_path: Path) -> None:
    images = opened.data().images[:4]
    expected = opened.preprocess(images)
    assert (expected.shape, expected.dtype) == ((4, 1, 8, 8), torch.float32)
    height_width = [image[..., 0] for image in images]
    pictures = [Image.fromarray(image) for image in height_width]
    for idx, picture in enumerate(pictures):
        picture.save(tmp_path / f"{idx}.png")
    paths = [tmp_path / f"{idx}.png" for idx in range(4)]
    alike = (list(images), height_width, pictures, paths, [str(path) for path in paths], tmp_path, str(tmp_path))
    for each in (*alike, [pictures[0], paths[1], images[2:]], np.stack(height_width), torch.from_numpy(images)):
        assert torch.equal(opened.preprocess(each), expected)
    assert torch.equal(opened.preprocess(images[0]), expected[:1])


def test_every_list_counts_its_conversions(opened: OpenRun, tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    colours = np.repeat(grey[..., None], 3, axis=2)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    Image.fromarray(np.dstack([colours, 255 - grey])).save(tmp_path / "alpha.png")
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(grey).save(tmp_path / "moving.gif", save_all=True, append_images=[Image.fromarray(255 - grey)])
    Image.fromarray(np.kron(grey, np.ones((3, 5), np.uint8))).save(tmp_path / "large.png")
    pictures = opened.preprocessing.pictures([tmp_path / name for name in sorted(tmp_path.iterdir())])
    values = pictures.batch(0, 5)[..., 0].astype(int)
    read = {Path(name).stem: each for name, each in zip(pictures.names, values, strict=True)}
    assert all(abs(read[name] - grey).max() <= 1 for name in ("sixteen", "alpha", "cmyk", "moving"))
    assert read["large"].shape == (8, 8)
    assert pictures.notes == {
        "of 16 bits a channel the upper 8 are kept": 1,
        "transparency is ignored": 1,
        "CMYK is converted to RGB": 1,
        "of an animation the first frame is used": 1,
        "colours are converted to grey": 3,
        "the shorter side is scaled and the centre cut out: 8 x 8": 1,
    }


def test_what_is_no_image_is_named(opened: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-200])
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "empty").mkdir()
    cases: dict[str, Any] = {
        r"text.png cannot be decoded \(cannot identify": tmp_path / "text.png",
        r"cut.jpg cannot be decoded \(.*[Tt]runcated": tmp_path / "cut.jpg",
        r"float.tif holds floats, and what is white": tmp_path / "float.tif",
        r"empty holds no image \(.jpg": tmp_path / "empty",
        "there is no such file or folder": tmp_path / "absent.png",
        "the list is empty": [],
        r"images are float64; bytes .* \(255 \* images\)": np.zeros((8, 8)),
        r"They look like \(N, C, H, W\)": np.zeros((5, 3, 8, 8), np.uint8),
        r"has the shape \(0, 8, 8, 1\)": np.zeros((0, 8, 8, 1), np.uint8),
    }
    for message, images in cases.items():
        with pytest.raises(InputError, match=message):
            opened.predict(images)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for width in (64, 20):  # Pillow refuses more than twice its limit itself
        Image.fromarray(np.zeros((64, width), np.uint8)).save(tmp_path / "large.png")
        with pytest.raises(InputError, match=r"large.png is too large: at most 1,000 pixels are read"):
            opened.predict(tmp_path / "large.png")


def test_all_broken_files_of_a_batch_are_named(opened: OpenRun, tmp_path: Path) -> None:
    for idx in range(8):
        (tmp_path / f"{idx}.png").write_text("no image")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match=r"(?s)1.png cannot be decoded.*5.png cannot be decoded.*and 2 more files"):
        opened.predict(tmp_path)


def test_a_folder_of_images_is_prepared_as_for_training(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for idx in range(20):
            picture = random.randint(0, 256, (13 + idx, 17, 3)).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / "images" / name / f"{idx}.png")
    size = ("data=image_folder", f"data.folder={tmp_path / 'images'}", "data.image_size=8", "data.batch_size=8")
    opened = open_run(train(tmp_path / "logs", *size, "trainer.max_steps=2"))
    for path in sorted((tmp_path / "images").rglob("*.png"))[::7]:
        pictures = opened.preprocessing.pictures(path)
        assert np.array_equal(pictures.batch(0, 1)[0], decode(path, 8))
        assert not pictures.notes


def test_one_file_is_enough(opened: OpenRun, tmp_path: Path) -> None:
    images = opened.data().images
    alone = open_run(shutil.copy(list_checkpoints(opened.place)[0], tmp_path / "weights.pt"))
    assert np.array_equal(alone.predict(images).probabilities, opened.predict(images).probabilities)
    assert (alone.name, alone.classes, alone.record.steps) == (opened.name, opened.classes, 60)
    assert alone.config.model == opened.config.model


def test_checkpoints_from_before_take_what_is_missing_from_the_run(opened: OpenRun, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(opened.place, tmp_path / opened.place.name))
    path = list_checkpoints(directory)[0]
    content = load_checkpoint(path)
    del content["preprocessing"], content["record"]
    torch.save(content, path)
    sign(path)
    old, images = open_run(directory), opened.data().images
    assert torch.equal(old.preprocess(images), opened.preprocess(images))
    assert open_run(path).name == opened.name
    with pytest.raises(InputError, match="does not say of which run"):
        open_run(shutil.copy(path, tmp_path / "alone.pt"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale", torch.tensor([float("nan")])),
        ("offset", torch.zeros(8, 9, 1)),
        ("classes", [1, 2]),
        ("image_shape", [8, 8, 10**9]),
        ("resizes", None),
    ],
)
def test_damaged_preprocessing_is_refused(opened: OpenRun, tmp_path: Path, key: str, value: Any) -> None:
    content = load_checkpoint(list_checkpoints(opened.place)[0])
    content["preprocessing"][key] = value
    torch.save(content, tmp_path / "forged.pt")
    with pytest.raises(InputError, match="its preprocessing is damaged"):
        open_run(tmp_path / "forged.pt").preprocess(np.zeros((8, 8), np.uint8))


def test_layers_are_found_by_name(opened: OpenRun) -> None:
    images = opened.data().images[:5]
    seen = opened.activations(images, "layer2")
    assert seen.shape[0] == 5
    network = opened.network()
    assert network is opened.network()
    assert not network.training
    with pytest.raises(InputError, match=r"no such layer. Did you mean layer2\?"):
        opened.activations(images, "layr2")
    assert not dict(network.named_modules())["layer2"]._forward_hooks


def test_curves_have_a_row_a_step(opened: OpenRun) -> None:
    curves = opened.curves()
    rows = curves.to_dict("records") if hasattr(curves, "to_dict") else curves
    assert [row["step"] for row in rows] == [20, 30, 40, 60]
    assert rows[-1]["train/loss"] > 0


def test_runs_are_listed_and_compared(folder: Path, opened: OpenRun) -> None:
    rows = depthlab.runs(folder)
    rows = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
    assert [row["seed"] for row in rows] == [1, 2]
    assert rows[0]["test/err"] == opened.record.metrics["test/err"]
    other = Path(rows[1]["directory"])
    differing = depthlab.diff(opened, other)
    assert differing["seed"] == (1, 2)
    assert differing["callbacks.ema.decay"] == (0.9, None)
    assert depthlab.diff(opened, opened.place) == {}
    with pytest.raises(InputError, match="which of its 2 runs"):
        open_run(folder)
    with pytest.raises(InputError, match="holds no runs"):
        depthlab.runs(folder / "absent")


def test_tables_are_lists_of_dicts_without_pandas(
    opened: OpenRun, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert [row["step"] for row in opened.curves()] == [20, 30, 40, 60]
    assert [row["seed"] for row in depthlab.runs(folder)] == [1, 2]


def test_a_published_run_has_no_weights_until_they_are_put_there(opened: OpenRun, tmp_path: Path) -> None:
    place = publish(opened.place.parent, tmp_path / "published", allow_dirty=True)[0]
    published = open_run(place)
    assert published.record.metrics == opened.record.metrics
    assert len(published.curves()) == len(opened.curves())
    with pytest.raises(InputError, match="no checkpoint of its last step"):
        published.network()
    shutil.copytree(opened.place / "checkpoints", place / "checkpoints")
    images = opened.data().images
    assert np.array_equal(open_run(place).predict(images).labels, opened.predict(images).labels)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("running", r"not finished \(running, step 60\).*\npython train.py\n.*step-00000060.ckpt"),
        ("diverged", "not numbers"),
    ],
)
def test_a_run_without_a_result_is_refused(opened: OpenRun, tmp_path: Path, status: str, message: str) -> None:
    directory = Path(shutil.copytree(opened.place, tmp_path / opened.place.name))
    set_status(directory, status)
    with pytest.raises(InputError, match=message):
        open_run(directory).predict(np.zeros((8, 8), np.uint8))
    assert len(open_run(directory).curves())


def test_a_missing_extension_is_named(opened: OpenRun, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(opened.place, tmp_path / opened.place.name))
    record = json.loads((directory / "record.json").read_text())
    record["config"]["model"]["family"], record["extensions"] = "mixer", {"mylab": "1.2"}
    (directory / "record.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"extension that is not installed here: mylab 1.2"):
        open_run(directory).predict(np.zeros((8, 8), np.uint8))


def test_a_damaged_record_is_listed_as_such(opened: OpenRun, tmp_path: Path) -> None:
    shutil.copytree(opened.place, tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "record.json").write_text("{")
    rows = depthlab.runs(tmp_path)
    rows = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
    assert [str(row["status"])[:8] for row in rows] == ["finished", "damaged:"]


def test_what_there_is_not_is_said(opened: OpenRun, folder: Path, tmp_path: Path) -> None:
    other = open_run(next(path.parent for path in folder.rglob("record.json") if "seed2" in path.parent.name))
    with pytest.raises(InputError, match="averaged no weights"):
        other.network("ema")
    with pytest.raises(InputError, match="A best checkpoint is not kept"):
        other.network("best")
    with pytest.raises(InputError, match=r"split=tets: .* Did you mean test"):
        other.data("tets")
    with pytest.raises(InputError, match="there is no such directory or file"):
        open_run(tmp_path / "absent")


def test_a_regression_names_no_classes(tmp_path: Path) -> None:
    settings = ("data=noisy_digits", "model=residual_restorer20", "model.depth=8", "task=regression")
    opened = open_run(train(tmp_path, *settings, "trainer.max_steps=1"))
    with pytest.raises(InputError, match=r"names no classes. run.outputs"):
        opened.predict(opened.data().images)
    assert opened.outputs(opened.data().images[:3]).shape == (3, 1, 8, 8)


NOTEBOOK = """
import depthlab

run = depthlab.open_run("{run}")
images, labels, classes = run.data("test")
predictions = run.predict(images)
print(predictions.error(labels), run.record.metrics["test/err"], len(run.curves()), len(depthlab.runs("{logs}")))
"""


@pytest.mark.slow
def test_five_lines_of_a_notebook(opened: OpenRun, folder: Path) -> None:
    code = NOTEBOOK.format(run=opened.place, logs=folder)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    error, recorded, *_ = done.stdout.split()
    assert error == recorded


@pytest.mark.slow
def test_predicting_imports_neither_lightning_nor_hydra_nor_torchs_compiler(opened: OpenRun) -> None:
    code = f"""
import sys
import depthlab
assert "torch" not in sys.modules
import numpy
depthlab.open_run({str(opened.place)!r}).predict(numpy.zeros((30, 20), numpy.uint8))
slow = {{"lightning", "torchmetrics", "hydra", "torchvision", "matplotlib", "torch._dynamo", "sympy"}}
print(*sorted(slow & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_the_command_names_classes(
    opened: OpenRun, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels, classes = opened.data()
    for idx in range(30):
        place = tmp_path / "images" / classes[labels[idx]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[idx, ..., 0]).save(place / f"{idx}.png")
    expected = opened.predict(tmp_path / "images", top=2)
    out, one = tmp_path / "predictions.csv", tmp_path / "images" / classes[labels[0]] / "0.png"
    arguments = [f"run={opened.place}", f"images={tmp_path / 'images'}", "top=2", f"out={out}"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in found["images"]] == [row["class"] for row in expected.rows()]
    truth = [classes.index(Path(name).parent.name) for name in expected.names]
    assert found["error"] == expected.error(truth)
    assert np.array(found["confusion"]).sum() == 30
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [classes[label] for label in truth]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "and 10 more\n30 rows in" in shown
    assert re.search(rf"(?m)^ 0/\S+\.png +0 +{found['images'][0]['class']} +\d+\.\d % +\d \d+\.\d *$", shown)
    assert all(text in shown for text in ("class / predicted", f"error {found['error']:.2f} % of 30 images"))
    done = command("-m", "depthlab", "predict", f"run={opened.place}", f"images={one}", "--json")
    assert json.loads(done.stdout)["images"][0]["class"] == opened.predict(one).top_names[0][0]
    assert done.stderr == ""


def test_a_terminal_of_80_columns_shows_every_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    classes = [f"automobile{idx}" for idx in range(8)]
    ranked = {f"{word}_{rank}": value for rank in (2, 3) for word, value in (("class", "bird"), ("confidence", 0.25))}
    row = {"image": f"{tmp_path}/a.png", "class": classes[0], "confidence": 0.5, **ranked, "label": classes[1]}
    row["class"], written = "=1+1", tmp_path / "rows.csv"
    predict_command._write(written, [row])
    assert "'=1+1" in written.read_text()
    row["class"] = classes[0]
    result = {"images": [row], "notes": {}, "error": 100.0, "classes": classes, "confusion": np.eye(8, dtype=int)}
    predict_command._show(result, tmp_path / "a.png", None)
    shown = capsys.readouterr().out
    assert re.search(r"a\.png +automobile1 +automobile0 +50\.0 % +bird 25\.0, bird 25\.0", shown)
    assert (
        re.search(r"class / predicted +0 +1 +2", shown)
        and "7 automobile7" in shown
        and "\N{HORIZONTAL ELLIPSIS}" not in shown
    )
    assert max(map(len, shown.splitlines())) <= 80


def test_the_command_names_mistakes(opened: OpenRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note.txt").write_text("no image")
    (tmp_path / "0").mkdir()
    (tmp_path / "eleven").mkdir()
    for folder in ("0", "eleven", "."):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / folder / "a.png")
    cases = {
        "note.txt cannot be decoded": [f"images={tmp_path / 'note.txt'}"],
        "top=some: an integer": [f"images={tmp_path}", "top=some"],
        "image=x: no such option. Did you mean images?": ["image=x"],
        "images=... is missing": [],
        "eleven is no class of the run": [f"images={tmp_path}"],
        "accelerator=tpu: there is no such device": [f"images={tmp_path / '0'}", "accelerator=tpu"],
        "it cannot be written": [f"images={tmp_path / '0'}", f"out={tmp_path / 'absent' / 'a.csv'}"],
    }
    for message, arguments in cases.items():
        assert main([f"run={opened.place}", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "images=FILE|FOLDER" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "eleven")
    assert main([f"run={opened.place}", f"images={tmp_path}"]) == 2
    assert "lies beside the classes' folders" in capsys.readouterr().err
