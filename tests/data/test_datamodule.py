"""What a run receives: which images, in which batches, on which process, with which statistics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from depthlab.config.registry import lookup
from depthlab.data.augment import OFF, Augmentation
from depthlab.data.batch import SPLITS, Batch
from depthlab.data.datamodule import ImageDataModule
from depthlab.data.loaders import EvalBatches, TrainBatches
from depthlab.data.source import ImageSource
from depthlab.data.sources import read_cifar10
from depthlab.data.spec import DataSpec, ImagesSpec
from depthlab.data.splits import stratified_split
from depthlab.errors import InputError
from depthlab.runs.build import build_data

from ..conftest import Compose

CPU = torch.device("cpu")
KEYS: dict[str, Any] = {"batch_size": 8, "eval_batch_size": 7, "crop_padding": 2, "flip": True}


def small_source() -> ImageSource:
    """70 + 30 colour images, each with its own bytes; the test images are brighter, so that their statistics differ."""
    random = np.random.RandomState(0)
    train = random.randint(20, 120, (70, 6, 6, 3)).astype(np.uint8)
    test = random.randint(120, 250, (30, 6, 6, 3)).astype(np.uint8)
    labels = np.arange(100) % 5
    return ImageSource(train, labels[:70], test, labels[70:], tuple("abcde"))


@dataclass(frozen=True)
class SmallImages(DataSpec):
    """`small_source` as a data set; not registered."""

    registered = "digits"

    def read(self, data_dir: Path) -> ImageSource:
        return small_source()


def module(
    processes: int = 1,
    rank: int = 0,
    seed: int = 1,
    augmentation: Augmentation = OFF,
    frozen: bool = False,
    spec: type[ImagesSpec] = SmallImages,
    data_dir: Path = Path(),
    **keys: Any,
) -> ImageDataModule:
    """A data module as process `rank` of `processes` has it, its images read; `keys` are those of the spec."""
    held_out = {"val_size": 20} if issubclass(spec, DataSpec) else {}
    data = ImageDataModule(spec(**{**KEYS, **held_out, **keys}), data_dir, seed, augmentation, frozen)
    if processes > 1:
        data.trainer = SimpleNamespace(world_size=processes, global_rank=rank)  # type: ignore[assignment]
    data.setup()
    return data


def received(data: ImageDataModule, split: str) -> Batch:
    """Everything that one pass over a split hands to the network."""
    batches = [data.transfer_batch_to_device(batch, CPU, 0) for batch in data.eval_batches(split)]
    assert {batch.split for batch in batches} == {split}
    return Batch(torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches]), split)


def test_the_test_split_is_the_official_one_and_val_is_set_aside_from_the_training_images() -> None:
    data, source = module(), small_source()
    stays, aside = stratified_split(source.train_labels, 20, 0)
    expected = {
        "train": (source.train_images[stays], source.train_labels[stays]),
        "val": (source.train_images[aside], source.train_labels[aside]),
        "test": (source.test_images, source.test_labels),
    }
    for split in SPLITS:
        for array, wanted in zip(data.arrays[split], expected[split], strict=True):
            np.testing.assert_array_equal(array, wanted)
    assert [data.num_images(split) for split in SPLITS] == [50, 20, 30]


def test_the_split_does_not_follow_the_seed_of_the_run() -> None:
    assert module(seed=0).fingerprint() == module(seed=5).fingerprint()
    assert module(split_seed=0).fingerprint() != module(split_seed=1).fingerprint()


def test_without_val_everything_is_trained_on() -> None:
    data = module(val_size=0)
    assert [data.num_images(split) for split in SPLITS] == [70, 0, 30]
    assert data.val_dataloader() == []
    assert [loader.split for loader in data.test_dataloader()] == ["train", "test"]


@pytest.mark.parametrize(("test_curve", "splits"), [(False, ["val"]), (True, ["val", "test"])])
def test_the_test_split_is_measured_along_the_way_only_where_asked(test_curve: bool, splits: list[str]) -> None:
    data = module(test_curve=test_curve)
    assert [loader.split for loader in data.val_dataloader()] == splits
    assert [loader.split for loader in data.test_dataloader()] == list(SPLITS)


@pytest.mark.parametrize("size", [1, 7, 29, 30, 31])
def test_one_pass_measures_every_image_once(size: int) -> None:
    data = module(eval_batch_size=size)
    loader = data.eval_batches("test")
    assert len(loader) == len(list(loader))
    assert received(data, "test").labels.tolist() == small_source().test_labels.tolist()
    assert all(stop - start <= size for _, start, stop in loader)


@pytest.mark.parametrize("normalization", ["per_pixel", "per_channel"])
def test_every_split_is_normalised_by_the_training_images(normalization: str) -> None:
    data = module(normalization=normalization)
    train = data.arrays["train"][0] / 255
    per_pixel = normalization == "per_pixel"
    mean = train.mean(0) if per_pixel else train.mean((0, 1, 2))
    deviation = 1 if per_pixel else train.std((0, 1, 2))
    for split in SPLITS:
        images = received(data, split).images
        expected = (data.arrays[split][0] / 255 - mean) / deviation
        np.testing.assert_allclose(images.permute(0, 2, 3, 1), expected, atol=5e-6)
    means = {split: received(data, split).images.mean().item() for split in SPLITS}
    assert abs(means["train"]) < 1e-5
    assert 1e-5 < abs(means["val"]) < 0.2
    assert means["test"] > 0.4  # brighter, and nothing hides it


def test_training_batches_are_what_the_stream_draws() -> None:
    data = module()
    for number in (0, 6, 11):
        draws = data.stream(CPU).batch(number)
        batch = data.transfer_batch_to_device(number, CPU, 0)
        images, labels = data.on_device("train", CPU).train_batch(draws)
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.labels, labels)
        assert batch.labels.tolist() == data.arrays["train"][1][draws.image_idx].tolist()
        assert batch.split == "train"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"seed": 0},
        {"batch_size": 9},
        {"crop_padding": 1},
        {"flip": False},
        {"last_batch": "short"},
        {"frozen": True},
    ],
    ids=str,
)
def test_every_key_of_the_stream_reaches_it(change: dict[str, Any]) -> None:
    (key, value) = next(iter(change.items()))
    name = {"crop_padding": "padding"}.get(key, key)
    stream = module(**change).stream(CPU)
    assert getattr(stream, name) == value
    assert getattr(module().stream(CPU), name) != value
    assert stream.num_images == 50


def test_val_and_test_are_neither_cropped_nor_mirrored() -> None:
    data = module()
    assert data.on_device("train", CPU).padding == 2
    assert data.on_device("val", CPU).padding == data.on_device("test", CPU).padding == 0
    assert torch.equal(received(data, "val").images, received(data, "val").images)
    assert received(data, "train").labels.tolist() == data.arrays["train"][1].tolist()


def pixels(images: Tensor) -> list[bytes]:
    return [image.contiguous().numpy().tobytes() for image in images]


@pytest.mark.parametrize("processes", [2, 3, 5, 8, 9])
@pytest.mark.parametrize("batch", [0, 6, ("test", 0, 7), ("val", 14, 20)], ids=str)
def test_the_processes_together_take_each_image_of_a_batch_once(processes: int, batch: Any) -> None:
    # 9 processes for 6, 7 or 8 images: the last ones get none, and none is counted twice.
    whole = module().transfer_batch_to_device(batch, CPU, 0)
    parts = [module(processes, rank).transfer_batch_to_device(batch, CPU, 0) for rank in range(processes)]
    assert [p for part in parts for p in pixels(part.images)] == pixels(whole.images)
    assert torch.cat([part.labels for part in parts]).tolist() == whole.labels.tolist()
    sizes = [len(part.labels) for part in parts]
    assert max(sizes) == -(-len(whole.labels) // processes)


def test_parts_are_equal_where_the_batch_divides() -> None:
    sizes = [len(module(4, rank).transfer_batch_to_device(0, CPU, 0).labels) for rank in range(4)]
    assert sizes == [2] * 4


@pytest.mark.parametrize(
    ("first", "total", "span", "epochs"),
    [
        (0, 10, 4, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], []]),
        (0, 8, 4, [[0, 1, 2, 3], [4, 5, 6, 7], []]),
        (6, 10, 4, [[6, 7], [8, 9], []]),  # continued within a span: the validation stays where it was
        (4, 10, 100, [[4, 5, 6, 7, 8, 9], []]),
        (10, 10, 4, [[]]),
    ],
)
def test_training_goes_through_every_number_once_and_pauses_after_each_span(
    first: int, total: int, span: int, epochs: list[list[int]]
) -> None:
    batches = TrainBatches(first, total, span)
    next(iter(batches), None)  # given up, as Lightning does with the first one of a continuation
    assert [list(batches) for _ in epochs] == epochs


def test_the_training_loader_takes_what_it_was_told_to() -> None:
    data = module()
    with pytest.raises(RuntimeError, match="train_loader"):
        data.train_dataloader()
    data.train_loader = TrainBatches(3, 6, 2)
    loader = data.train_dataloader()
    assert [list(loader), list(loader), list(loader)] == [[3], [4, 5], []]


def test_an_evaluation_pass_over_no_images_is_empty() -> None:
    assert list(EvalBatches("val", 0, 10)) == []
    assert len(EvalBatches("val", 0, 10)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_size": 70}, r"data\.val_size=70.*70 images"),
        ({"val_size": 1000}, r"data\.val_size=1000.*70 images"),
        ({"batch_size": 51}, r"data\.batch_size=51.*50 images"),
    ],
)
def test_more_images_than_there_are_is_refused_by_name(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        module(**change)


def test_the_last_image_can_be_trained_on_and_one_batch_can_be_everything() -> None:
    assert module(val_size=69, batch_size=1).num_images("train") == 1
    assert module(batch_size=50).spec.batch_size == 50


def test_shape_and_classes_follow_from_the_data() -> None:
    data = module()
    assert data.image_shape == (6, 6, 3)
    assert data.classes == tuple("abcde")


def test_nothing_is_read_before_setup_and_then_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def read(self: SmallImages, data_dir: Path) -> ImageSource:
        reads.append(data_dir)
        return small_source()

    monkeypatch.setattr(SmallImages, "read", read)
    data = ImageDataModule(SmallImages(**KEYS, val_size=20), Path("here"), 1)
    assert reads == []
    for _ in range(3):
        data.setup("fit")
    assert reads == [Path("here")]
    assert data.num_images("val") == 20


def test_a_configuration_of_noisy_digits_is_served_with_its_images_as_targets(compose_config: Compose) -> None:
    config = compose_config("seed=3")
    spec: Any = lookup("data", "noisy_digits")
    data = build_data(replace(config, data=spec(noise=0.2, noise_seed=5)))
    clean = build_data(config)
    assert data.num_outputs == 1
    assert [data.num_images(split) for split in SPLITS] == [1300, 137, 360]
    batch = data.transfer_batch_to_device(("test", 0, 10), CPU, 0)
    np.testing.assert_allclose(batch.labels[:, 0] * 255, clean.arrays["test"][0][:10, ..., 0], atol=1e-4)
    assert batch.images.shape == batch.labels.shape == (10, 1, 8, 8)
    assert data.train_batch(0, CPU).labels.shape == (64, 1, 8, 8)


@pytest.mark.slow
@pytest.mark.real_data
def test_the_network_receives_real_cifar10_centred_by_its_training_images(data_dir: Path) -> None:
    cifar10: Any = lookup("data", "cifar10")
    changes = {"spec": cifar10, "data_dir": data_dir, "eval_batch_size": 1000, "crop_padding": 4}
    data = module(**changes, val_size=5000, batch_size=128)
    assert [data.num_images(split) for split in SPLITS] == [45_000, 5_000, 10_000]
    for split in ("train", "val"):
        assert np.ptp(np.bincount(data.arrays[split][1])) == 0
    np.testing.assert_array_equal(data.arrays["test"][0], read_cifar10(data_dir).test_images)
    mean_image = {split: received(data, split).images.mean(0) for split in SPLITS}
    assert mean_image["train"].abs().max() < 1e-4
    assert 1e-4 < mean_image["val"].abs().max() < 0.05
    assert 1e-4 < mean_image["test"].abs().max() < 0.05
    # The well-known deviations of CIFAR-10's channels, which a subtraction leaves as they are.
    whole = module(**changes, val_size=0, normalization="per_channel")
    deviation = 1 / (255 * whole.normalization.scale)
    assert deviation.tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-4)
