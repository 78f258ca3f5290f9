"""One's own images: arrays and data sets that fit become a source, and what does not fit is told how to be mended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from depthlab.data.batch import SPLITS
from depthlab.data.source import ImageSource
from depthlab.data.spec import DataSpec
from depthlab.errors import InputError

from .test_datamodule import module

CPU = torch.device("cpu")
RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.randint(0, 256, (12, 6, 5, 3)).astype(np.uint8)
LABELS = np.arange(12) % 3
NUMBERS = RANDOM.normal(size=(12, 2))
TARGETS = RANDOM.random_sample((12, 6, 5, 1))


def source_of(images: Any = IMAGES, targets: Any = LABELS, **others: Any) -> ImageSource:
    return ImageSource.from_arrays((images, targets), (IMAGES[:6], targets[:6]), **others)


def test_labels_of_any_integer_type_are_taken() -> None:
    for kind in (np.int64, np.int32, np.uint8):
        source = source_of(targets=LABELS.astype(kind))
        assert source.train_labels.dtype == source.test_labels.dtype == np.int64
        assert source.train_labels.tolist() == LABELS.tolist()
    assert source.classes == ("0", "1", "2")
    assert source_of(targets=LABELS.tolist(), classes=["a", "b", "c"]).classes == ("a", "b", "c")
    assert source_of(targets=LABELS.astype(np.int32) == 1).classes == ("0", "1")
    np.testing.assert_array_equal(source.train_images, IMAGES)


def test_grey_images_may_come_without_a_channel() -> None:
    source = ImageSource.from_arrays((IMAGES[..., 0], LABELS), (IMAGES[..., :1], LABELS))
    assert source.train_images.shape == source.test_images.shape == (12, 6, 5, 1)


def test_numbers_and_images_as_targets_have_no_classes_and_their_channels_first() -> None:
    one = source_of(targets=NUMBERS[:, 0])
    assert one.train_labels.shape == (12, 1)
    assert source_of(targets=NUMBERS).train_labels.shape == (12, 2)
    images = source_of(targets=TARGETS)
    assert images.train_labels.shape == (12, 1, 6, 5)
    np.testing.assert_array_equal(images.train_labels[:, 0], TARGETS[..., 0].astype(np.float32))
    assert one.classes == images.classes == ()
    assert one.train_labels.dtype == images.train_labels.dtype == np.float32


def test_validation_images_of_its_own_are_kept() -> None:
    source = source_of(val=(IMAGES[:4], LABELS[:4]))
    assert source.val is not None
    assert source.val[1].tolist() == LABELS[:4].tolist()


WRONG = {
    "channels first": (
        {"images": IMAGES.transpose(0, 3, 1, 2)},
        "look like (N, C, H, W): images.transpose(0, 2, 3, 1)",
    ),
    "four channels": ({"images": np.zeros((12, 6, 5, 4), np.uint8)}, "train images have 4 channels; 1 or 3"),
    "floats": ({"images": IMAGES / 255}, "train images are float64; bytes from 0 to 255 are expected: (255 * images)"),
    "large floats": ({"images": IMAGES.astype(np.float32)}, "images.astype(np.uint8)"),
    "rows": ({"images": IMAGES.reshape(12, -1)}, "train images have the shape (12, 90); (N, H, W, C) is expected"),
    "none": ({"images": IMAGES[:0]}, "(0, 6, 5, 3)"),
    "fewer images": ({"images": IMAGES[:11]}, "train has 11 images and 12 targets."),
    "another size": ({"images": IMAGES[:, 1:]}, "images of different shapes: {'train': (5, 5, 3), 'test': (6, 5, 3)}"),
    "labels from 1": ({"targets": LABELS + 1}, "They seem to count from 1: labels - 1"),
    "labels from 1, named": ({"targets": LABELS + 1, "classes": "abc"}, "train labels run from 1 to 3; with 3 classes"),
    "negative labels": ({"targets": LABELS - 1}, "train labels run from -1 to 1"),
    "one-hot": ({"targets": np.eye(3, dtype=int)[LABELS]}, "Of one-hot rows: labels.argmax(axis=1)"),
    "missing class": ({"targets": np.where(LABELS == 1, 0, LABELS)}, "train has no image of class 1."),
    "missing, named": ({"targets": LABELS % 2, "classes": "abc"}, "train has no image of class 2."),
    "one class": ({"targets": LABELS * 0}, "train has one class"),
    "words": ({"targets": np.array(list("abc"))[LABELS]}, "train targets are <U1; integers or floats are expected."),
    "NaN": ({"targets": np.where(NUMBERS > 0, NUMBERS, np.nan)}, "train targets hold NaN or infinity."),
    "infinity": ({"targets": np.full(12, np.inf)}, "train targets hold NaN or infinity."),
    "images without channels": ({"targets": TARGETS[..., 0]}, "Of grey images: targets[..., None]"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_told_what_would(kind: str) -> None:
    arguments, message = WRONG[kind]
    with pytest.raises(InputError) as caught:
        source_of(**arguments)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_remedies_that_are_named_are_remedies() -> None:
    remedies = [
        source_of(IMAGES.transpose(0, 3, 1, 2).transpose(0, 2, 3, 1)),
        source_of((255 * (IMAGES / 255)).round().astype(np.uint8)),
        source_of(targets=(LABELS + 1) - 1),
        source_of(targets=np.eye(3, dtype=int)[LABELS].argmax(axis=1)),
    ]
    for source in remedies:
        np.testing.assert_array_equal(source.train_images, IMAGES)
        assert source.train_labels.tolist() == LABELS.tolist()
    assert source_of(targets=TARGETS[..., 0][..., None]).train_labels.shape == (12, 1, 6, 5)


def test_every_split_is_checked() -> None:
    pair = IMAGES, LABELS
    for name, arguments in {"test": (pair, (IMAGES, LABELS - 1)), "val": (pair, pair)}.items():
        val = (IMAGES, LABELS - 1) if name == "val" else None
        with pytest.raises(InputError, match=f"^{name} labels run from -1"):
            ImageSource.from_arrays(*arguments, val=val)
    with pytest.raises(InputError, match="integers in one split and floats in another"):
        ImageSource.from_arrays(pair, (IMAGES, NUMBERS))
    # A class without a test image only goes unmeasured.
    assert ImageSource.from_arrays(pair, (IMAGES[:2], LABELS[:2])).classes == ("0", "1", "2")


class Pairs(torch.utils.data.Dataset[Any]):
    """A torch data set of (image, target)."""

    def __init__(self, images: Any, targets: Any) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, idx: int) -> Any:
        return self.images[idx], self.targets[idx]


KINDS = {
    "pictures": [Image.fromarray(image) for image in IMAGES],
    "bytes": torch.from_numpy(IMAGES).permute(0, 3, 1, 2),
    "floats": torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [LABELS.tolist(), torch.from_numpy(LABELS)], ids=["numbers", "tensors"])
def test_a_torch_data_set_is_read_whole(kind: str, targets: Any) -> None:
    dataset = Pairs(KINDS[kind], targets)
    source = ImageSource.from_dataset(dataset, dataset)
    np.testing.assert_array_equal(source.train_images, IMAGES)
    assert source.train_labels.tolist() == source.test_labels.tolist() == LABELS.tolist()
    dataset.classes = ["a", "b", "c"]  # type: ignore[attr-defined]  # as torchvision's have
    assert ImageSource.from_dataset(dataset, dataset).classes == ("a", "b", "c")


def test_targets_of_a_torch_data_set_may_be_numbers_or_images() -> None:
    numbers = Pairs(KINDS["floats"], torch.from_numpy(NUMBERS).float())
    np.testing.assert_allclose(ImageSource.from_dataset(numbers, numbers).train_labels, NUMBERS, rtol=1e-6)
    images = Pairs(KINDS["floats"], KINDS["floats"])
    found = ImageSource.from_dataset(images, images).train_labels
    np.testing.assert_array_equal(found, KINDS["floats"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (KINDS["floats"] * 2 - 1, r"train\[0\] has values outside 0 to 1\. Leave normalisation to data.normalization"),
        (KINDS["bytes"][:, 0], r"train\[0\] has the shape \(6, 5\); a tensor \(C, H, W\) is expected"),
        ([Image.new("RGB", (5, 6 + idx % 2)) for idx in range(12)], "train: images of different shapes. Resize them"),
    ],
)
def test_images_of_a_torch_data_set_that_do_not_fit_are_refused(images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageSource.from_dataset(Pairs(images, LABELS.tolist()), Pairs(images, LABELS.tolist()))


@dataclass(frozen=True)
class Regression(DataSpec):
    """Numbers, or images, to be predicted from images; not registered."""

    registered = "mine"
    targets = "numbers"

    def read(self, data_dir: Path) -> ImageSource:
        return ImageSource.from_arrays((IMAGES, NUMBERS), (IMAGES[:6], NUMBERS[:6]))


@dataclass(frozen=True)
class Restoring(DataSpec):
    """Images to be predicted from images; not registered."""

    registered = "mine"
    targets = "images"

    def read(self, data_dir: Path) -> ImageSource:
        return ImageSource.from_arrays((IMAGES, TARGETS), (IMAGES[:6], TARGETS[:6]))


@pytest.mark.parametrize(("spec", "shape"), [(Regression, (2,)), (Restoring, (1, 6, 5))])
def test_targets_of_regression_go_with_their_images_through_the_data_module(
    spec: type[DataSpec], shape: tuple[int, ...]
) -> None:
    data = module(spec=spec, val_size=4, batch_size=3, crop_padding=0, flip=False)
    assert data.num_outputs == shape[0]
    assert data.classes == ()
    assert data.describe()["num_classes"] == shape[0]
    assert [data.num_images(split) for split in SPLITS] == [8, 4, 6]
    source = spec().read(Path())
    by_image = {image.tobytes(): target for image, target in zip(source.train_images, source.train_labels, strict=True)}
    for split in SPLITS:
        images, targets = data.arrays[split]
        for image, target in zip(images, targets, strict=True):
            np.testing.assert_array_equal(by_image[image.tobytes()], target)
    for number in range(4):
        batch = data.transfer_batch_to_device(number, CPU, 0)
        expected = data.arrays["train"][1][data.stream(CPU).batch(number).image_idx]
        assert batch.labels.shape == (3, *shape)
        assert batch.labels.dtype == torch.float32
        np.testing.assert_array_equal(batch.labels, expected)
    (evaluated,) = (data.transfer_batch_to_device(batch, CPU, 0) for batch in data.eval_batches("test"))
    np.testing.assert_array_equal(evaluated.labels, source.test_labels)


def test_a_changed_target_changes_the_fingerprint() -> None:
    @dataclass(frozen=True)
    class Changed(Regression):
        def read(self, data_dir: Path) -> ImageSource:
            source = super().read(data_dir)
            labels = source.train_labels.copy()
            labels[5, 1] += 1
            return replace(source, train_labels=labels)

    keys = {"val_size": 4, "batch_size": 3}
    assert module(spec=Regression, **keys).fingerprint() != module(spec=Changed, **keys).fingerprint()
