"""Reading the data sets, after every raw file has been found intact."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from depthlab.data.source import ImageSource
from depthlab.data.splits import stratified_split
from depthlab.errors import InputError

DOWNLOAD_TIMEOUT_SECONDS = 60.0
DIGITS_TEST_SIZE = 360
DIGITS_TEST_SEED = 0

# Of the unpacked files; torchvision carries the sums of MNIST's archives only and reads altered files unawares.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


_MAY_DOWNLOAD: ContextVar[bool] = ContextVar("_MAY_DOWNLOAD", default=True)


@contextmanager
def no_downloads() -> Iterator[None]:
    """While it is held, a data set that is not there is refused and no folder is made for it."""
    token = _MAY_DOWNLOAD.set(False)
    try:
        yield
    finally:
        _MAY_DOWNLOAD.reset(token)


def read_cifar10(data_dir: Path) -> ImageSource:
    """CIFAR-10 from `data_dir`/cifar-10-batches-py, unpacked or downloaded first where that folder is missing."""
    from torchvision.datasets import CIFAR10

    return _read_cifar(CIFAR10, data_dir, "CIFAR-10")


def read_cifar100(data_dir: Path) -> ImageSource:
    """CIFAR-100 with its 100 fine labels from `data_dir`/cifar-100-python, otherwise as CIFAR-10."""
    from torchvision.datasets import CIFAR100

    return _read_cifar(CIFAR100, data_dir, "CIFAR-100")


def _read_cifar(dataset: Any, data_dir: Path, title: str) -> ImageSource:
    """torchvision knows the files and their sums; it would check them twice and one by one, a second of each start."""
    _obtain(dataset, data_dir, dataset.base_folder, title)
    folder, meta = data_dir / dataset.base_folder, dataset.meta
    sums = dict([*dataset.train_list, *dataset.test_list, (meta["filename"], meta["md5"])])
    # What is unpickled are the bytes whose sum was found to be the official one: a pickle can execute anything.
    content = {name: pickle.loads(raw, encoding="latin1") for name, raw in _read_files(folder, sums, folder).items()}
    (train_images, train_labels), (test_images, test_labels) = (
        _read_batches([content[name] for name, _ in files]) for files in (dataset.train_list, dataset.test_list)
    )
    classes = tuple(content[meta["filename"]][meta["key"]])
    return ImageSource(train_images, train_labels, test_images, test_labels, classes)


def _read_batches(batches: Sequence[dict[str, Any]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Rows of 3 x 32 x 32 bytes as images, and CIFAR-10's labels or CIFAR-100's fine ones."""
    rows = np.concatenate([batch["data"] for batch in batches])
    labels = [batch["fine_labels" if "fine_labels" in batch else "labels"] for batch in batches]
    images = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, np.concatenate(labels).astype(np.int64)


def read_mnist(data_dir: Path) -> ImageSource:
    """MNIST from `data_dir`/MNIST/raw, downloaded first where that folder is missing."""
    from torchvision.datasets import MNIST

    _obtain(MNIST, data_dir, "MNIST/raw", "MNIST")
    folder = data_dir / "MNIST" / "raw"
    # Not through torchvision: it prefers MNIST/processed, whose files nobody checks.
    arrays = [_read_idx(raw) for raw in _read_files(folder, MNIST_MD5, folder).values()]
    train_images, train_labels, test_images, test_labels = arrays
    return ImageSource(
        train_images[..., None],
        train_labels.astype(np.int64),
        test_images[..., None],
        test_labels.astype(np.int64),
        tuple(str(digit) for digit in range(10)),
    )


def _read_idx(raw: bytes) -> NDArray[np.uint8]:
    """The array in a file of MNIST's format: two zeros, the type (8: bytes), number of axes, their sizes, values."""
    num_axes = raw[3]
    shape = np.frombuffer(raw, ">u4", num_axes, offset=4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def read_digits(data_dir: Path) -> ImageSource:
    """The 1,797 handwritten digits inside scikit-learn, 8x8 grey; `data_dir` is not used.

    Their 17 levels of grey are spread over 0 to 255. They have no official test split: a fixed stratified one is made.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    train, test = stratified_split(labels, DIGITS_TEST_SIZE, DIGITS_TEST_SEED)
    return ImageSource(
        images[train], labels[train], images[test], labels[test], tuple(str(name) for name in bunch.target_names)
    )


def add_noise(source: ImageSource, deviation: float, seed: int) -> ImageSource:
    """The images of a data set with Gaussian noise, and the clean images, from 0 to 1, as targets."""
    random = np.random.RandomState(seed)

    def noisy(images: Any) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        clean = (images / 255).astype(np.float32)
        values = np.clip(clean + random.normal(0, deviation, clean.shape), 0, 1)
        return np.rint(255 * values).astype(np.uint8), np.ascontiguousarray(clean.transpose(0, 3, 1, 2))

    return ImageSource(*noisy(source.train_images), *noisy(source.test_images), ())


def _obtain(dataset: Any, data_dir: Path, folder: str, title: str) -> None:
    """Unpack or download `folder` of a torchvision data set into `data_dir` if it is not there, whole or not at all.

    An archive that lies in `data_dir` under its official name is unpacked; there is nothing to download then.
    """
    if (data_dir / folder).is_dir():
        return
    if not _MAY_DOWNLOAD.get():
        raise InputError(
            f"{title} is not in {data_dir / folder}, the place that the record names. Say where it is: data_dir=DIR"
        )
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(data_dir / f".{dataset.__name__}.lock"):  # a second process waits, then finds the folder
            if not (data_dir / folder).is_dir():
                _download(dataset, data_dir, folder)
    except (OSError, RuntimeError, EOFError, HTTPException) as error:  # also a connection that breaks half-way
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{title} is not in {data_dir / folder} and could not be downloaded ({reason}).\n"
            "Set DEPTHLAB_DATA_DIR (or paths.data_dir=...) to the folder that holds it, "
            "or use data=digits, which needs no download."
        ) from None


def _download(dataset: Any, data_dir: Path, folder: str) -> None:
    timeout_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)  # torchvision sets none and would wait for ever
    temporary = Path(tempfile.mkdtemp(prefix=".download-", dir=data_dir))
    try:
        _lend_archive(dataset, data_dir, temporary)
        dataset(str(temporary), download=True)
        (data_dir / folder).parent.mkdir(parents=True, exist_ok=True)
        (temporary / folder).rename(data_dir / folder)
    finally:
        socket.setdefaulttimeout(timeout_before)
        shutil.rmtree(temporary, ignore_errors=True)


def _lend_archive(dataset: Any, data_dir: Path, temporary: Path) -> None:
    """Let torchvision find an existing archive; it would overwrite one with a wrong checksum."""
    name = getattr(dataset, "filename", None)  # MNIST comes as four files
    if name and (data_dir / name).is_file():
        _check_files(data_dir, {name: dataset.tgz_md5}, data_dir / name)
        (temporary / name).symlink_to((data_dir / name).resolve())


def _check_files(folder: Path, sums: dict[str, str], culprit: Path) -> None:
    """Refuse files of `folder` whose MD5 differs from `sums`; `culprit` is what can be downloaded anew."""
    _read_files(folder, sums, culprit)


def _read_files(folder: Path, sums: dict[str, str], culprit: Path) -> dict[str, bytes]:
    """The content of files of `folder`, in the order of `sums`, each with the MD5 given there.

    Raises:
        InputError: a file is missing or altered; `culprit` is what can be downloaded anew.
    """
    with ThreadPoolExecutor() as threads:
        contents = dict(zip(sums, threads.map(lambda name: _read_file(folder / name, culprit), sums), strict=True))
        found = dict(zip(sums, threads.map(lambda raw: hashlib.md5(raw).hexdigest(), contents.values()), strict=True))
    for name, expected in sums.items():
        if found[name] != expected:
            raise InputError(
                f"{folder / name} is cut short or altered: its MD5 is {found[name]}, the official file's {expected}.\n"
                f"{_remedy(culprit)}"
            )
    return contents


def _read_file(path: Path, culprit: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.\n{_remedy(culprit)}") from None


def _remedy(culprit: Path) -> str:
    return f"Remove {culprit} and run again to download it anew, or set DEPTHLAB_DATA_DIR to a whole copy."
