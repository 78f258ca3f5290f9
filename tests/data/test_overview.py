"""A data set at a glance: counts, duplicates, means, and pictures of the pixels that a network receives."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from depthlab.commands import data as command
from depthlab.data.batch import Batch
from depthlab.data.device_images import fit_normalization
from depthlab.data.overview import CAPTION, GAP, draw_images, draw_rows, mean_images, survey

from ..typing_in import answer
from .official import write_folder

MARGIN = 20
CLASSES = ("cat", "dog")


def images_of(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, channels), dtype=np.uint8)


def drawn(images: NDArray[np.uint8], **mixture: torch.Tensor) -> NDArray[np.uint8]:
    normalization = fit_normalization(images, "per_channel")
    values = torch.from_numpy(images).float() * normalization.scale - normalization.offset
    batch = Batch(values.permute(0, 3, 1, 2), torch.tensor([0, 1]), "train", **mixture)
    return np.asarray(draw_rows([("row", batch, normalization)], CLASSES, 2, MARGIN))


@pytest.mark.parametrize(
    ("height", "width", "channels", "factor"),
    [(32, 32, 3, 3), (28, 28, 1, 3), (8, 32, 3, 3), (32, 8, 3, 3), (100, 60, 3, 1), (60, 100, 3, 1)],
)
def test_each_pixel_is_drawn_in_its_colour(height: int, width: int, channels: int, factor: int) -> None:
    images = images_of(height, width, channels)
    canvas = drawn(images)
    assert canvas.shape == (factor * height + CAPTION, MARGIN + 2 * (factor * width + GAP), 3)
    for idx, image in enumerate(images):
        left = MARGIN + idx * (factor * width + GAP)
        tile = canvas[: factor * height, left : left + factor * width]
        assert (tile == np.broadcast_to(image, (height, width, 3)).repeat(factor, 0).repeat(factor, 1)).all()


def test_a_mixed_image_has_both_labels_below_it() -> None:
    images = images_of(32, 32, 3)
    plain = drawn(images)
    mixed = drawn(images, other_labels=torch.tensor([1, 0]), weight=torch.tensor([0.7, 1.0]))
    below = [canvas[-CAPTION:, MARGIN:].min(axis=2) < 128 for canvas in (plain, mixed)]
    ink = [[part[:half].any(), part[half:].any()] for part, half in ((below[0], 16), (below[1], 16))]
    assert ink == [[True, False], [True, True]]


def split(*images: int, labels: tuple[int, ...] = ()) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of 2x2 pixels of one brightness each."""
    pixels = np.array(images, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), dtype=np.uint8)
    return pixels, np.array(labels or [0] * len(images), dtype=np.int64)


def test_duplicates_are_counted_within_and_across_splits_with_the_classes_that_differ() -> None:
    arrays = {
        "train": split(1, 2, 1, 3, labels=(0, 1, 1, 1)),
        "val": split(4, 4, labels=(0, 0)),
        "test": split(2, 3, 5, 2, labels=(1, 0, 0, 1)),
    }
    found = survey(arrays, CLASSES)
    assert found["splits"] == {"train": 4, "val": 2, "test": 4}
    assert found["classes"] == {"cat": {"train": 1, "val": 2, "test": 2}, "dog": {"train": 3, "val": 0, "test": 2}}
    assert found["imbalance"] == 3
    assert found["duplicates"]["counts"] == {
        "within train": {"count": 1, "conflicts": 1},
        "train and val": {"count": 0, "conflicts": 0},
        "within val": {"count": 1, "conflicts": 0},
        "train and test": {"count": 3, "conflicts": 1},
        "val and test": {"count": 0, "conflicts": 0},
        "within test": {"count": 1, "conflicts": 0},
    }
    first = [(pair["where"], pair["images"], pair["same_class"]) for pair in found["duplicates"]["first"]]
    assert ("train and test", [3, 1], False) in first and ("within train", [0, 2], False) in first


def test_mean_images_are_those_of_the_classes_or_of_all() -> None:
    labelled = split(10, 20, 60, labels=(0, 0, 1))
    assert {name: int(mean[0, 0, 0]) for name, mean in mean_images(labelled, CLASSES).items()} == {"cat": 15, "dog": 60}
    assert {name: int(mean[0, 0, 0]) for name, mean in mean_images(labelled, ()).items()} == {"all images": 30}
    drawn_means = np.asarray(draw_images(mean_images(labelled, CLASSES)))
    assert (drawn_means[:96, :96] == 15).all() and (drawn_means[:96, 96 + GAP : 2 * 96 + GAP] == 60).all()


@pytest.mark.parametrize(
    "words",
    [
        ("data=digits",),
        ("data=noisy_digits", "task=regression", "model=plain_restorer20"),
        ("data=image_folder", "data.folder=flowers", "data.batch_size=4", "data.memory_limit_gib=0.000001"),
    ],
    ids=lambda words: words[0],
)
def test_the_page_shows_classes_numbers_images_and_files(tmp_path: Path, words: tuple[str, ...]) -> None:
    write_folder(tmp_path / "flowers", {"rose": 9, "tulip": 6})
    out = tmp_path / "page"
    given = (*words, f"paths.data_dir={tmp_path}", f"out={out}")
    code, said = answer(lambda: command.main(sys.argv[1:]), *given, "--json")
    assert code == 0, said
    found = json.loads(said)
    assert found == json.loads((out / "data.json").read_text())
    page = (out / "data.html").read_text()
    assert "Mean images" in page and page.count("data:image/png;base64") == 2
    if words[0] == "data=image_folder":
        assert found["files"] == {
            "count": 15,
            "sizes": {"width": [12, 12.0, 12], "height": [12, 12.0, 12]},
            "modes": {"RGB": 15},
        }
        assert sum(found["classes"]["rose"].values()) == 9
    elif words[0] == "data=digits":
        assert found["splits"] == {"train": 1300, "val": 137, "test": 360} and len(found["classes"]) == 10
    else:
        assert found["classes"] == {} and found["targets"]["train"]["shape"] == [1, 8, 8]


def test_training_images_are_shown_before_and_after_augmentation(tmp_path: Path) -> None:
    words = ("data=digits", "data.crop_padding=2", "data.flip=true", f"out={tmp_path}")
    code, said = answer(lambda: command.main(sys.argv[1:]), *words)
    assert code == 0 and "Duplicates across splits" in said, said
    rows = np.split(np.asarray(Image.open(tmp_path / "batch.png").convert("L"), dtype=int)[:, 116:], 2)
    assert np.abs(rows[0][:96] - rows[1][:96]).mean() > 5
    assert (rows[0][96:] == rows[1][96:]).all()  # the same images


@pytest.mark.parametrize(
    ("word", "message"),
    [("data=digitz", "no such option"), ("data.flip=maybe", "data.flip"), ("--each", "--each: no such option.")],
)
def test_mistakes_are_refused(word: str, message: str, tmp_path: Path) -> None:
    code, said = answer(lambda: command.main(sys.argv[1:]), "data=digits", word, f"out={tmp_path / 'out'}")
    assert (code, "Traceback" in said, (tmp_path / "out").exists()) == (2, False, False) and message in said


def test_the_picture_of_a_batch_is_saved_without_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "a.png", tmp_path / "new" / "b.webp"
    for file in files:
        assert command.show_batch(["--out", str(file), "data=digits"]) == 0
    with Image.open(files[0]) as one, Image.open(files[1]) as other:
        assert np.array_equal(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB")))
    with pytest.raises(SystemExit, match="2"):
        command.show_batch(["--out", str(tmp_path / "c.jpg"), "data=digits"])
    assert "argument --out: the name of the file ends in .png or .webp" in capsys.readouterr().err
