"""Reading the data sets: intact or not at all, downloaded whole or not at all, and in their official split."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from depthlab.data import sources
from depthlab.data.source import ImageSource, fingerprint
from depthlab.data.sources import add_noise, read_cifar10, read_cifar100, read_digits, read_mnist
from depthlab.errors import InputError

from .official import CIFAR_BATCHES, MNIST_FILES, accept, md5, small_images, write_cifar10, write_cifar100, write_mnist

Read = Callable[[Path], ImageSource]


@pytest.fixture
def small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every data set that comes as files, small, in the official formats."""
    write_cifar10(tmp_path)
    write_cifar100(tmp_path)
    write_mnist(tmp_path)
    accept(monkeypatch, tmp_path)
    return tmp_path


def test_cifar10_is_read_in_its_official_split(small_files: Path) -> None:
    source = read_cifar10(small_files)
    expected = np.concatenate([small_images(seed, 3, 32, 3) for seed in range(5)])
    np.testing.assert_array_equal(source.train_images, expected)
    np.testing.assert_array_equal(source.test_images, small_images(5, 3, 32, 3))
    assert source.train_labels.tolist() == [label for seed in range(5) for label in (seed, 1, 2)]
    assert source.test_labels.tolist() == [5, 1, 2]
    assert source.classes == tuple(f"class {idx}" for idx in range(10))


def test_cifar100_is_read_with_its_fine_labels_and_their_names(small_files: Path) -> None:
    source = read_cifar100(small_files)
    np.testing.assert_array_equal(source.train_images, small_images(0, 20, 32, 3))
    np.testing.assert_array_equal(source.test_images, small_images(1, 10, 32, 3))
    assert source.train_labels.tolist() == [*range(10), *range(10)]
    assert source.test_labels.tolist() == list(range(1, 11))
    assert source.classes == tuple(f"fine {idx}" for idx in range(100))


def test_an_archive_beside_a_missing_folder_is_unpacked_and_nothing_is_downloaded(
    small_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, archive = read_cifar100(small_files), small_files / CIFAR100.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(small_files / CIFAR100.base_folder, CIFAR100.base_folder)
    shutil.rmtree(small_files / CIFAR100.base_folder)
    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:1/nothing")
    with pytest.raises(
        InputError, match=rf"{CIFAR100.filename} is cut short or altered[\s\S]*Remove .*{CIFAR100.filename}"
    ):
        read_cifar100(small_files)
    monkeypatch.setattr(CIFAR100, "tgz_md5", md5(archive))
    np.testing.assert_array_equal(read_cifar100(small_files).train_images, expected.train_images)
    assert archive.exists()


def test_mnist_is_read_in_its_official_split_and_not_pooled(small_files: Path) -> None:
    source = read_mnist(small_files)
    np.testing.assert_array_equal(source.train_images, small_images(0, 5, 28, 1))
    np.testing.assert_array_equal(source.test_images, small_images(1, 3, 28, 1))
    assert source.train_labels.tolist() == [0, 1, 2, 3, 4]
    assert source.test_labels.tolist() == [1, 2, 3]
    assert source.classes == tuple("0123456789")


def test_mnist_is_read_from_its_raw_files_also_beside_processed_ones(small_files: Path) -> None:
    expected = read_mnist(small_files)
    processed = small_files / "MNIST" / "processed"
    processed.mkdir()
    zeros = torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)
    for name in ("training.pt", "test.pt"):  # which torchvision prefers and does not check
        torch.save(zeros, processed / name)
    found = read_mnist(small_files)
    np.testing.assert_array_equal(found.train_images, expected.train_images)
    assert found.test_labels.tolist() == expected.test_labels.tolist()


@pytest.mark.parametrize(
    ("read", "names"),
    [
        (read_cifar10, [*CIFAR_BATCHES, "batches.meta"]),
        (read_cifar100, ["train", "test", "meta"]),
        (read_mnist, MNIST_FILES),
    ],
)
def test_every_file_is_read_once(
    small_files: Path, monkeypatch: pytest.MonkeyPatch, read: Read, names: list[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(io, "open", counted(io.open, opened, small_files))
    monkeypatch.setattr("builtins.open", counted(open, opened, small_files))
    read(small_files)
    assert sorted(name for name in opened if not name.endswith(".lock")) == sorted(names)


def counted(opens: Callable[..., Any], opened: list[str], folder: Path) -> Callable[..., Any]:
    """`opens`, with the names of the files below `folder` noted."""

    def open_and_count(file: Any, *arguments: Any, **others: Any) -> Any:
        if isinstance(file, str | Path) and Path(file).is_relative_to(folder):
            opened.append(Path(file).name)
        return opens(file, *arguments, **others)

    return open_and_count


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, alter, Path.unlink])
@pytest.mark.parametrize(
    ("read", "folder", "name"),
    [(read_cifar10, "cifar-10-batches-py", name) for name in [*CIFAR_BATCHES, "batches.meta"]]
    + [(read_cifar100, "cifar-100-python", name) for name in ("train", "test", "meta")]
    + [(read_mnist, "MNIST/raw", name) for name in MNIST_FILES],
)
def test_a_damaged_file_is_refused_by_name(
    small_files: Path, read: Read, folder: str, name: str, damage: Callable[[Path], None]
) -> None:
    path = small_files / folder / name
    damage(path)
    reason = "cannot be read" if damage is Path.unlink else "cut short or altered"
    with pytest.raises(InputError, match=rf"{name} .*{reason}[\s\S]*Remove .*DEPTHLAB_DATA_DIR"):
        read(small_files)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("read", "folder", "name"),
    [(read_cifar10, "cifar-10-batches-py", name) for name in [*CIFAR_BATCHES, "batches.meta"]]
    + [(read_cifar100, "cifar-100-python", name) for name in ("train", "test", "meta")],
)
def test_nothing_is_unpickled_before_all_sums_are_checked(
    small_files: Path, read: Read, folder: str, name: str
) -> None:
    sprung = small_files / "sprung"
    (small_files / folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match=name):
        read(small_files)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


def fake_dataset(monkeypatch: pytest.MonkeyPatch, download: Callable[[Path], None]) -> list[Path]:
    """Put a class in place of torchvision's MNIST whose download calls `download`; where it was asked to."""
    from torchvision.datasets import MNIST

    calls: list[Path] = []

    class Fake(MNIST):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            if download:
                calls.append(Path(root))
                fetch(Path(root))
            super().__init__(root, train=train)

        @property
        def raw_folder(self) -> str:  # torchvision derives it from the class's name
            return str(Path(self.root) / "MNIST" / "raw")

    fetch = download
    monkeypatch.setattr("torchvision.datasets.MNIST", Fake)
    return calls


def test_absent_data_that_cannot_be_downloaded_says_where_it_looked_and_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(root: Path) -> None:
        (root / "MNIST" / "raw").mkdir(parents=True)
        raise OSError("no route to host")

    fake_dataset(monkeypatch, fail)
    data_dir = tmp_path / "data"
    with pytest.raises(InputError) as caught:
        read_mnist(data_dir)
    for part in (str(data_dir / "MNIST" / "raw"), "no route to host", "DEPTHLAB_DATA_DIR", "data=digits"):
        assert part in str(caught.value)
    assert [path.name for path in data_dir.iterdir() if not path.name.endswith(".lock")] == []


def test_a_download_lands_whole_by_rename_and_cannot_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts = []

    def succeed(root: Path) -> None:
        assert root.parent == tmp_path  # the same file system: a rename suffices
        write_mnist(root)
        assert not (tmp_path / "MNIST").exists()
        timeouts.append(socket.getdefaulttimeout())
        accept(monkeypatch, root)

    calls = fake_dataset(monkeypatch, succeed)
    for _ in range(2):
        assert len(read_mnist(tmp_path).train_images) == 5
    assert len(calls) == 1
    assert not calls[0].exists()
    assert timeouts == [sources.DOWNLOAD_TIMEOUT_SECONDS]
    assert socket.getdefaulttimeout() is None


def test_two_at_once_download_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(root: Path) -> None:
        time.sleep(0.3)  # long enough for the other thread to find no folder either
        write_mnist(root)
        accept(monkeypatch, root)

    calls = fake_dataset(monkeypatch, slow)
    threads = [threading.Thread(target=read_mnist, args=(tmp_path,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_digits_are_1797_images_split_for_ever(tmp_path: Path) -> None:
    source = read_digits(tmp_path / "not used")
    assert source.train_images.shape == (1437, 8, 8, 1)
    assert source.test_images.shape == (360, 8, 8, 1)
    assert (source.train_images.dtype, source.train_labels.dtype) == (np.uint8, np.int64)
    assert (source.train_images.min(), source.train_images.max()) == (0, 255)
    assert set(np.bincount(source.test_labels)) <= {35, 36, 37}
    assert source.classes == tuple("0123456789")
    images_and_labels = [source.train_images, source.train_labels, source.test_images, source.test_labels]
    assert fingerprint(images_and_labels) == "6a009a142edf9ee6"


def test_train_and_test_digits_share_no_image() -> None:
    source = read_digits(Path())
    train, test = ({image.tobytes() for image in part} for part in (source.train_images, source.test_images))
    assert not train & test


def test_noisy_digits_are_the_digits_with_the_clean_images_as_targets() -> None:
    clean, noisy = read_digits(Path()), add_noise(read_digits(Path()), 0.3, 0)
    assert noisy.train_images.shape == clean.train_images.shape
    assert noisy.train_images.dtype == np.uint8
    assert noisy.classes == ()
    targets = noisy.test_labels
    assert (targets.shape, targets.dtype) == ((360, 1, 8, 8), np.float32)
    np.testing.assert_array_equal(np.rint(255 * targets[:, 0]), clean.test_images[..., 0])
    # Where clipping to 0 and 1 leaves the noise as it is, it has the deviation that was asked for.
    weak = add_noise(clean, 0.05, 0)
    middle = (clean.train_images > 80) & (clean.train_images < 170)
    noise = (weak.train_images.astype(float) - clean.train_images)[middle] / 255
    assert noise.std() == pytest.approx(0.05, rel=0.05)
    assert abs(noise.mean()) < 0.005


def test_noise_follows_its_seed_and_is_fixed_for_ever() -> None:
    one, again, other = (add_noise(read_digits(Path()), 0.3, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.train_images, again.train_images)
    assert (one.train_images != other.train_images).any()
    np.testing.assert_array_equal(one.train_labels, other.train_labels)
    assert fingerprint([one.train_images, one.train_labels, one.test_images, one.test_labels]) == NOISY_DIGITS
    without = add_noise(read_digits(Path()), 0.0, 0)
    np.testing.assert_array_equal(without.train_images, read_digits(Path()).train_images)


NOISY_DIGITS = "7471a2c07634fdde"


def test_a_fingerprint_sees_one_changed_byte_and_the_order() -> None:
    images = small_images(0, 4, 8, 1)
    changed = images.copy()
    changed[2, 3, 4, 0] ^= 1
    prints = {fingerprint(arrays) for arrays in ([images], [changed], [images[::-1]], [images, images])}
    assert len(prints) == 4
    assert fingerprint([images]) == fingerprint([images.copy()])


@pytest.mark.slow
@pytest.mark.real_data
def test_real_cifar10_has_its_official_sizes_and_test_split(data_dir: Path) -> None:
    source = read_cifar10(data_dir)
    assert source.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(source.train_labels).tolist() == [5000] * 10
    np.testing.assert_array_equal(source.test_images, CIFAR10(str(data_dir), train=False).data)
    assert np.bincount(source.test_labels).tolist() == [1000] * 10
    assert source.classes[:2] == ("airplane", "automobile")


@pytest.mark.real_data
def test_real_mnist_has_its_official_sizes_and_test_split(data_dir: Path) -> None:
    from torchvision.datasets import MNIST

    source = read_mnist(data_dir)
    assert source.train_images.shape == (60_000, 28, 28, 1)
    np.testing.assert_array_equal(source.test_images[..., 0], MNIST(str(data_dir), train=False).data.numpy())
    assert np.bincount(source.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.real_data
def test_one_changed_byte_of_real_mnist_is_refused(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in MNIST_FILES:
        (folder / name).symlink_to(data_dir / "MNIST" / "raw" / name)
    labels = folder / "t10k-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.unlink()
    labels.write_bytes(content[:5000] + bytes([(content[5000] + 1) % 10]) + content[5001:])
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte is cut short or altered"):
        read_mnist(tmp_path)
