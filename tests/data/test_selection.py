"""Folds, chosen classes and few images of each: which images that leaves, and what is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from depthlab.data.batch import SPLITS
from depthlab.data.datamodule import ImageDataModule
from depthlab.data.selection import Selection, choose_classes
from depthlab.data.source import ImageSource
from depthlab.errors import InputError

from .test_datamodule import module, small_source


def held(data: ImageDataModule, split: str) -> list[bytes]:
    """The images of a split, to compare."""
    images = data.arrays[split][0]
    return [images[idx].tobytes() for idx in range(len(images))]


def test_each_training_image_is_validated_on_in_one_fold_and_the_test_split_stays() -> None:
    folds = [module(fold=fold, num_folds=5) for fold in range(5)]
    whole = [image.tobytes() for image in small_source().train_images]
    assert sorted(image for data in folds for image in held(data, "val")) == sorted(whole)
    for data in folds:
        assert sorted(held(data, "train") + held(data, "val")) == sorted(whole)
        assert held(data, "test") == held(module(), "test")
        assert np.ptp(np.bincount(data.arrays["val"][1])) <= 1


def test_folds_of_the_same_images_have_one_fingerprint() -> None:
    prints = {module(fold=fold, num_folds=5).fingerprint() for fold in range(5)}
    assert len(prints) == 1
    changed = choose_classes(small_source(), ["a", "b"])
    assert changed.train_images.shape[0] < 70
    assert prints != {module().fingerprint()}
    assert prints != {module(fold=0, num_folds=5, classes=["a", "b"]).fingerprint()}


def test_chosen_classes_are_numbered_as_they_were_given() -> None:
    data, source = module(classes=["d", "b"], val_size=4), small_source()
    assert data.classes == ("d", "b")
    assert data.describe()["num_classes"] == 2
    for split in SPLITS:
        assert set(data.arrays[split][1]) == {0, 1}
    kept = np.flatnonzero(np.isin(source.test_labels, [3, 1]))
    np.testing.assert_array_equal(data.arrays["test"][0], source.test_images[kept])
    assert data.arrays["test"][1].tolist() == [{3: 0, 1: 1}[label] for label in source.test_labels[kept]]


def test_few_images_of_each_class_are_trained_on_and_the_other_splits_stay_whole() -> None:
    data = module(images_per_class=3)
    assert np.bincount(data.arrays["train"][1]).tolist() == [3] * 5
    assert set(held(data, "train")) < set(held(module(), "train"))
    for split in ("val", "test"):
        assert held(data, split) == held(module(), split)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["a", "z"]}, r"data\.classes: there is no class 'z'\. There are: a, b, c, d, e"),
        ({"images_per_class": 11}, r"data\.images_per_class=11: class . has 10 images"),
        ({"fold": 0, "num_folds": 15}, r"data\.num_folds=15: class a has 14 images"),
        ({"images_per_class": 1}, r"data\.batch_size=8: there are 5 images"),
    ],
)
def test_more_than_there_is_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        module(**changes)


def own_val(source: ImageSource) -> ImageSource:
    return replace(source, val=(source.test_images[:5], source.test_labels[:5]))


def test_validation_images_of_the_datas_own_are_used_and_exclude_folds() -> None:
    parts = Selection(20, 0).divide(own_val(small_source()), "flowers")
    assert [len(parts[split][1]) for split in SPLITS] == [70, 5, 30]
    with pytest.raises(InputError, match=r"data\.fold=1: flowers has validation images of its own"):
        Selection(20, 0, fold=1, num_folds=5).divide(own_val(small_source()), "flowers")
    chosen = choose_classes(own_val(small_source()), ["e", "a"])
    assert chosen.val is not None
    assert set(chosen.val[1]) <= {0, 1}
