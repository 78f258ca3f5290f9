"""Images set aside, folds, chosen classes: which images that leaves, always the same ones, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from depthlab.data.batch import SPLITS
from depthlab.data.datamodule import ImageDataModule
from depthlab.data.selection import Selection, choose_classes
from depthlab.data.source import ImageSource
from depthlab.data.splits import stratified_fold, stratified_split, take_per_class
from depthlab.errors import InputError

from .test_datamodule import module, small_source

LABELS = np.arange(100) % 10
# Classes of 50, 30, 15 and 5 images, shuffled.
UNEVEN = np.random.RandomState(7).permutation(np.repeat(np.arange(4), [50, 30, 15, 5]))
# RandomState's streams are frozen (NEP 19): these indices may never change, or old runs lose their split.
GOLDEN = [7, 13, 15, 19, 20, 22, 24, 26, 29, 31, 32, 36, 51, 54, 63, 78, 80, 85, 88, 97]
FOLD = [4, 7, 12, 15, 19, 20, 22, 31, 36, 39, 53, 54, 58, 60, 63, 65, 66, 67, 78, 81]


@pytest.mark.parametrize("labels", [LABELS, UNEVEN])
@pytest.mark.parametrize("size", [0, 1, 10, 33, 99, 100])
def test_parts_are_disjoint_whole_and_ascending(labels: np.ndarray, size: int) -> None:
    stays, aside = stratified_split(labels, size, seed=3)
    assert len(aside) == size
    assert sorted([*stays, *aside]) == list(range(len(labels)))
    assert list(stays) == sorted(stays)
    assert list(aside) == sorted(aside)
    assert aside.dtype == stays.dtype == np.int64


@pytest.mark.parametrize("size", [1, 20, 37, 50])
def test_every_class_gives_its_share(size: int) -> None:
    for labels in (LABELS, UNEVEN):
        _, aside = stratified_split(labels, size, seed=0)
        exact = size * np.bincount(labels) / len(labels)
        assert np.all(np.abs(np.bincount(labels[aside], minlength=len(exact)) - exact) < 1)


@pytest.mark.parametrize(
    ("size", "quotas"),
    [
        (9, [5, 3, 1, 0]),  # shares of 4.5, 2.7, 1.35 and 0.45
        (10, [5, 3, 2, 0]),  # 5, 3, 1.5 and 0.5: of equal remainders the first class rounds up
    ],
)
def test_the_largest_remainders_are_rounded_up(size: int, quotas: list[int]) -> None:
    _, aside = stratified_split(UNEVEN, size, seed=0)
    assert np.bincount(UNEVEN[aside], minlength=4).tolist() == quotas


def test_which_images_is_fixed_for_ever() -> None:
    assert stratified_split(LABELS, 20, seed=0)[1].tolist() == GOLDEN


def test_another_seed_sets_other_images_aside() -> None:
    assert stratified_split(LABELS, 20, seed=1)[1].tolist() != GOLDEN


def test_images_are_drawn_from_the_whole_class_not_from_its_beginning() -> None:
    aside = stratified_split(np.zeros(1000, dtype=np.int64), 100, seed=0)[1]
    assert 400 < aside.mean() < 600


@pytest.mark.parametrize("size", [-1, 101])
def test_a_size_that_cannot_be_set_aside_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"cannot set aside {size} of 100"):
        stratified_split(LABELS, size, seed=0)


@pytest.mark.parametrize("labels", [LABELS, UNEVEN])
@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_each_image_is_in_one_fold_and_the_folds_are_alike(labels: np.ndarray, num_folds: int) -> None:
    folds = [stratified_fold(labels, fold, num_folds, seed=0) for fold in range(num_folds)]
    assert sorted(np.concatenate([aside for _, aside in folds])) == list(range(len(labels)))
    for stays, aside in folds:
        assert sorted([*stays, *aside]) == list(range(len(labels)))
    counts = np.array([np.bincount(labels[aside], minlength=4) for _, aside in folds])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1


def test_which_images_a_fold_has_is_fixed_for_ever_and_follows_the_seed() -> None:
    first = stratified_fold(LABELS, 0, 5, seed=0)[1].tolist()
    assert first == FOLD
    assert stratified_fold(LABELS, 0, 5, seed=1)[1].tolist() != first
    assert stratified_fold(np.zeros(1000, dtype=np.int64), 0, 10, seed=0)[1][:100].mean() > 300


@pytest.mark.parametrize(("fold", "num_folds"), [(-1, 5), (5, 5), (0, 6)])
def test_a_fold_that_cannot_be_is_refused(fold: int, num_folds: int) -> None:
    with pytest.raises(ValueError, match=r"no fold|a class has fewer than 6"):
        stratified_fold(UNEVEN, fold, num_folds, seed=0)


def test_so_many_images_of_each_class_are_taken_and_more_take_the_same_and_more() -> None:
    few, more = take_per_class(UNEVEN, 3, seed=0), take_per_class(UNEVEN, 5, seed=0)
    assert np.bincount(UNEVEN[few]).tolist() == [3] * 4
    assert set(few) < set(more)
    assert list(few) == sorted(few)
    assert few.tolist() != take_per_class(UNEVEN, 3, seed=1).tolist()
    with pytest.raises(ValueError, match="fewer than 6"):
        take_per_class(UNEVEN, 6, seed=0)


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
