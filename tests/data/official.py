"""Small data sets in the official formats of the real ones."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from depthlab.data import sources

CIFAR_BATCHES = [*(f"data_batch_{idx}" for idx in range(1, 6)), "test_batch"]
MNIST_FILES = list(sources.MNIST_MD5)


def small_images(seed: int, count: int, size: int, channels: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, size, size, channels)).astype(np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar10(data_dir: Path) -> None:
    """Three images a file, in the official format: pickled rows of 3,072 bytes, channels first."""
    folder = data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, name in enumerate(CIFAR_BATCHES):
        rows = small_images(seed, 3, 32, 3).transpose(0, 3, 1, 2).reshape(3, -1)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [seed, 1, 2]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {idx}" for idx in range(10)]}))


def write_cifar100(data_dir: Path) -> None:
    """Twenty training and ten test images in the official format: one file each, labels fine and coarse."""
    folder = data_dir / "cifar-100-python"
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate([("train", 20), ("test", 10)]):
        rows = small_images(seed, count, 32, 3).transpose(0, 3, 1, 2).reshape(count, -1)
        fine = [(seed + idx) % (10 + 10 * seed) for idx in range(count)]
        content = {"data": rows, "fine_labels": fine, "coarse_labels": [19] * count}
        (folder / name).write_bytes(pickle.dumps(content))
    names = {"fine_label_names": [f"fine {idx}" for idx in range(100)], "coarse_label_names": ["coarse"] * 20}
    (folder / "meta").write_bytes(pickle.dumps(names))


def write_folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (12, 12), seed: int = 0) -> None:
    """So many PNG files in each folder, such as {"train/cat": 5}: random colours, of `size` height and width."""
    random = np.random.RandomState(seed)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for idx in range(count):
            pixels = random.randint(0, 256, (*size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{idx:03d}.png")


def write_mnist(data_dir: Path) -> None:
    """Five training and three test images in the official format: a big-endian header, then bytes."""
    folder = data_dir / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for seed, (part, count) in enumerate([("train", 5), ("t10k", 3)]):
        header = np.array([2051, count, 28, 28], ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + small_images(seed, count, 28, 1).tobytes())
        header = np.array([2049, count], ">i4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(range(seed, seed + count)))


def accept(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    """Make the sums of the small files the official ones."""
    folder = data_dir / "cifar-10-batches-py"
    if folder.exists():
        sums = [[name, md5(folder / name)] for name in CIFAR_BATCHES]
        monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
        monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
        monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    folder = data_dir / "cifar-100-python"
    if folder.exists():
        for name in ("train", "test"):
            monkeypatch.setattr(CIFAR100, f"{name}_list", [[name, md5(folder / name)]])
        monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(folder / "meta")})
    raw = data_dir / "MNIST" / "raw"
    if raw.exists():
        monkeypatch.setattr(sources, "MNIST_MD5", {name: md5(raw / name) for name in MNIST_FILES})
