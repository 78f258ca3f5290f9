"""A folder of image files: which layouts are read, in which order, what is refused, and streaming without a trace."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from depthlab.config.registry import lookup
from depthlab.data.batch import SPLITS
from depthlab.data.datamodule import ImageDataModule
from depthlab.data.device_images import DeviceImages
from depthlab.data.image_files import FileImages, decode, fit_square
from depthlab.data.streamed_images import MOST_PENDING, StreamedImages, send_together
from depthlab.errors import InputError

from .official import write_folder
from .test_datamodule import module as module_of

CPU = torch.device("cpu")
DIVIDED = {"train/rose": 6, "train/tulip": 5, "val/rose": 2, "val/tulip": 1, "test/rose": 3, "test/tulip": 2}


KEYS = {
    "image_size": None,
    "val_fraction": 0.25,
    "test_fraction": 0.2,
    "memory_limit_gib": 1.0,
    "num_workers": 2,
    "batch_size": 4,
    "normalization": "per_pixel",
}


def module(
    root: Path, changes: dict[str, Any] | None = None, data_dir: Path | None = None, **of_folder: Any
) -> ImageDataModule:
    """The data module of data=image_folder, its images read."""
    keys: dict[str, Any] = {"folder": str(root), **KEYS, **(changes or {}), **of_folder}
    spec: Any = lookup("data", "image_folder")
    return module_of(spec=spec, data_dir=data_dir or root.parent, **keys)


def test_train_val_and_test_are_read_from_their_folders(tmp_path: Path) -> None:
    write_folder(tmp_path, DIVIDED)
    data = module(tmp_path)
    assert data.classes == ("rose", "tulip")
    assert [data.num_images(split) for split in SPLITS] == [11, 3, 5]
    assert data.arrays["train"][1].tolist() == [0] * 6 + [1] * 5
    first = np.asarray(Image.open(tmp_path / "train" / "tulip" / "000.png"))
    np.testing.assert_array_equal(data.arrays["train"][0][6], first)


def test_one_folder_of_classes_is_split_by_fractions_and_its_seed(tmp_path: Path) -> None:
    write_folder(tmp_path, {"rose": 20, "tulip": 40})
    data = module(tmp_path)
    assert [data.num_images(split) for split in SPLITS] == [36, 12, 12]
    for split, counts in {"train": [12, 24], "val": [4, 8], "test": [4, 8]}.items():
        assert np.bincount(data.arrays[split][1]).tolist() == counts
    images = [image.tobytes() for split in SPLITS for image in data.arrays[split][0]]
    assert len(set(images)) == 60
    assert module(tmp_path).fingerprint() == data.fingerprint() != module(tmp_path, {"split_seed": 1}).fingerprint()


def test_val_is_taken_from_train_where_there_is_none(tmp_path: Path) -> None:
    write_folder(tmp_path, {name: count for name, count in DIVIDED.items() if not name.startswith("val")})
    assert [module(tmp_path).num_images(split) for split in SPLITS] == [8, 3, 5]


def test_folds_hold_out_training_images(tmp_path: Path) -> None:
    write_folder(tmp_path, {"rose": 20, "tulip": 40})
    data = module(tmp_path, {"fold": 0, "num_folds": 4})
    assert [data.num_images(split) for split in SPLITS] == [36, 12, 12]
    assert np.bincount(data.arrays["val"][1]).tolist() == [4, 8]


def test_a_relative_folder_is_looked_for_in_the_data_directory(tmp_path: Path) -> None:
    write_folder(tmp_path / "flowers", {"rose": 6, "tulip": 6})
    data = module(tmp_path, folder="flowers", data_dir=tmp_path)
    assert data.describe()["folder"] == "flowers"
    assert data.describe()["streamed"] is False


def test_files_are_sorted_and_others_are_passed_over(tmp_path: Path) -> None:
    write_folder(tmp_path, {"rose": 3, "tulip": 3})
    (tmp_path / "rose" / "notes.txt").write_text("not an image")
    (tmp_path / "rose" / ".hidden.png").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "rose" / "more").mkdir()
    (tmp_path / "rose" / "002.png").rename(tmp_path / "rose" / "more" / "first.PNG")
    before = module(tmp_path, {"batch_size": 1}).fingerprint()
    # The order in which a file system lists its files is that of their making.
    for path in sorted((tmp_path / "rose").glob("*.png"), reverse=True):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert module(tmp_path, {"batch_size": 1}).fingerprint() == before


def test_the_fingerprint_sees_one_changed_pixel_and_not_the_place(tmp_path: Path) -> None:
    for name in ("here", "there"):
        write_folder(tmp_path / name, {"rose": 6, "tulip": 6})
    here = module(tmp_path / "here").fingerprint()
    assert module(tmp_path / "there").fingerprint() == here
    path = tmp_path / "there" / "rose" / "004.png"
    image = np.array(Image.open(path))
    image[3, 4, 1] ^= 1
    Image.fromarray(image).save(path)
    assert module(tmp_path / "there").fingerprint() != here


def test_images_of_any_size_are_scaled_by_their_shorter_side_and_cut_to_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    image = decode(tmp_path / "wide.png", 10)
    assert image.shape == (10, 10, 3)
    assert (image[:, 1:-1] == 200).all()
    assert decode(tmp_path / "wide.png", 40).shape == (40, 40, 3)


def test_scaling_and_cutting_are_torchvisions_to_the_pixel() -> None:
    random = np.random.RandomState(0)
    for size in (8, 32, 33):
        for height, width in ((8, 8), (32, 33), (33, 32), (7, 91), (100, 75), (641, 427), (50, 51), (3, 299)):
            picture = Image.fromarray(random.randint(0, 256, (height, width, 3)).astype(np.uint8))
            scaled = v2.functional.resize(picture, [size], antialias=True)
            expected = v2.functional.center_crop(scaled, [size, size])
            assert np.array_equal(fit_square(picture, size, ""), expected)


def test_a_strip_is_refused_before_it_is_scaled() -> None:
    with pytest.raises(InputError, match=r"a.png is 400000x1 pixels: a strip, of which a square of 224"):
        fit_square(Image.new("L", (400_000, 1)), 224, "a.png")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_image_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new(mode, (5, 7), 1 if mode == "1" else 0).save(path)
    assert decode(path, None).shape == (7, 5, 3)


def test_of_16_bits_the_upper_8_are_kept_and_floats_are_refused(tmp_path: Path) -> None:
    upper = np.array([[0, 40, 80], [120, 200, 255]], np.uint16)
    Image.fromarray(upper * 256 + 7).save(tmp_path / "grey.png")
    assert decode(tmp_path / "grey.png", None)[..., 0].tolist() == upper.tolist()
    Image.fromarray(np.full((2, 3), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match=r"float\.tif holds floats"):
        decode(tmp_path / "float.tif", None)


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "photo.jpg", exif=exif)
    assert decode(tmp_path / "photo.jpg", None).shape == (20, 10, 3)


def test_sizes_other_than_square_pass_through_whole(tmp_path: Path) -> None:
    write_folder(tmp_path, {"rose": 10, "tulip": 10}, size=(8, 14))
    data = module(tmp_path)
    assert data.image_shape == (8, 14, 3)
    batch = data.transfer_batch_to_device(0, CPU, 0)
    assert batch.images.shape == (4, 3, 8, 14)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def not_an_image(path: Path) -> None:
    path.write_text("<html>404</html>")


@pytest.mark.parametrize("damage", [cut_short, not_an_image])
@pytest.mark.parametrize("limit", [1.0, 1e-9])
def test_broken_files_are_named_before_anything_is_trained(tmp_path: Path, damage: Any, limit: float) -> None:
    write_folder(tmp_path, {"rose": 12, "tulip": 12})
    broken = [tmp_path / "tulip" / f"{idx:03d}.png" for idx in (3, 5)]
    for path in broken:
        damage(path)
    with pytest.raises(InputError) as caught:
        module(tmp_path, memory_limit_gib=limit).describe()
    assert any(f"{path} cannot be decoded" in str(caught.value) for path in broken)
    if limit == 1.0:
        assert sum(str(path) in str(caught.value) for path in broken) >= 1
    assert "Traceback" not in str(caught.value)


def test_many_broken_files_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, {"rose": 2, "tulip": 20})
    for path in (tmp_path / "tulip").iterdir():
        not_an_image(path)
    with pytest.raises(InputError, match=r"and 1\d more files"):
        module(tmp_path, {"batch_size": 1}, image_size=8)


def test_as_many_broken_files_as_are_named_are_all(tmp_path: Path) -> None:
    write_folder(tmp_path, {"rose": 2, "tulip": 20})
    with ThreadPoolExecutor(2) as pool:
        images = FileImages(sorted((tmp_path / "tulip").iterdir()), 8, pool)
        for path in images.paths[:5]:
            not_an_image(path)
        with pytest.raises(InputError) as caught:
            images[:10]
    assert len(str(caught.value).splitlines()) == 5


LAYOUTS: list[tuple[str, dict[str, int], str]] = [
    ("is empty", {}, r"nowhere is empty: a folder of image files is expected for each class"),
    ("has one class", {"rose": 3}, r"has one class, rose"),
    ("an empty class", {"rose": 3, "tulip": 0}, r"tulip holds no image"),
    ("an unknown class", {**DIVIDED, "test/lily": 1}, r"lily is a class that train/ does not have"),
    ("no train", {"val/rose": 3, "val/tulip": 3, "test/rose": 3, "test/tulip": 3}, r"holds val/ and no train/"),
    ("another folder beside train", {**DIVIDED, "valid/rose": 1}, r"train/ and also valid/"),
]


@pytest.mark.parametrize(("name", "counts", "message"), LAYOUTS, ids=[layout[0] for layout in LAYOUTS])
def test_a_folder_that_cannot_be_used_is_refused_by_name(
    tmp_path: Path, name: str, counts: dict[str, int], message: str
) -> None:
    (tmp_path / "nowhere").mkdir()
    write_folder(tmp_path / "nowhere", counts)
    with pytest.raises(InputError, match=message):
        module(tmp_path / "nowhere")


def test_a_folder_that_is_not_there_or_has_no_test_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.folder=.*nowhere: there is no such folder"):
        module(tmp_path / "nowhere")
    write_folder(tmp_path, {"rose": 6, "tulip": 6})
    with pytest.raises(InputError, match=r"data\.test_fraction=0: .* has no test/"):
        module(tmp_path, test_fraction=0)


def test_a_file_of_another_size_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"rose": 6, "tulip": 6})
    Image.new("RGB", (9, 12)).save(tmp_path / "tulip" / "002.png")
    with pytest.raises(InputError, match=r"002\.png is 12x9 where others are 12x12.*data\.image_size"):
        module(tmp_path)
    assert module(tmp_path, image_size=8).image_shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("normalization", "num_images"),
    [("per_pixel", {"rose": 20, "tulip": 40}), ("per_channel", {"rose": 20, "tulip": 40}), ("per_pixel", DIVIDED)],
)
def test_streamed_batches_are_those_from_memory(tmp_path: Path, normalization: str, num_images: dict[str, int]) -> None:
    write_folder(tmp_path, num_images, size=(9, 11))
    changes = {"normalization": normalization, "crop_padding": 2}
    held = module(tmp_path, changes, image_size=8)
    streamed = module(tmp_path, changes, image_size=8, memory_limit_gib=1e-9)
    assert isinstance(held.on_device("train", CPU), DeviceImages)
    assert isinstance(streamed.on_device("train", CPU), StreamedImages)
    assert isinstance(streamed.arrays["test"][0], FileImages)
    assert streamed.describe() == {**held.describe(), "streamed": True}
    everything = [*range(12), *(batch for split in SPLITS for batch in held.eval_batches(split)), 3, 2]
    for batch in everything:  # also out of order
        one, other = (data.transfer_batch_to_device(batch, CPU, 0) for data in (held, streamed))
        assert torch.equal(one.images, other.images)
        assert one.labels.tolist() == other.labels.tolist()


def test_the_next_batches_are_decoded_ahead_and_no_more(tmp_path: Path) -> None:
    write_folder(tmp_path, {"rose": 20, "tulip": 40})
    data = module(tmp_path, memory_limit_gib=1e-9)
    data.transfer_batch_to_device(0, CPU, 0)
    held = data.on_device("train", CPU)
    assert isinstance(held, StreamedImages)
    expected = {data.stream(CPU).batch(number).image_idx.numpy().tobytes() for number in (1, 2)}
    assert set(held._pending) == expected
    for number in range(0, 90, 3):  # batches that nobody comes for
        data.transfer_batch_to_device(number, CPU, 0)
    assert len(held._pending) <= MOST_PENDING


def test_large_images_are_cut_out_batch_by_batch_and_come_out_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, {"rose": 20, "tulip": 20})
    with_table = module(tmp_path)
    expected = [with_table.transfer_batch_to_device(number, CPU, 0).images for number in range(10)]
    monkeypatch.setattr("depthlab.data.device_images.OFFSETS_BYTES", 0)
    without = module(tmp_path)
    held = without.on_device("train", CPU)
    assert isinstance(held, DeviceImages)
    assert held._normalizer._table is None
    for number, images in enumerate(expected):
        assert torch.equal(without.transfer_batch_to_device(number, CPU, 0).images, images)


def test_one_copy_sends_tensors_of_every_kind() -> None:
    tensors = [
        torch.arange(30, dtype=torch.uint8).view(2, 5, 3),
        torch.tensor([3, -4], dtype=torch.int64),
        torch.tensor([True, False, True]),
        torch.tensor([0.5]),
    ]
    sent = send_together(tensors, torch.device("cpu"), pin_memory=False)
    assert len({tensor.untyped_storage().data_ptr() for tensor in sent}) == 1
    for one, other in zip(sent, tensors, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
