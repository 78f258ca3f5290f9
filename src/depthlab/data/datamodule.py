"""The LightningDataModule of every data set: numbered batches, turned into images on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from depthlab.data.images import DeviceImages, fit_normalization
from depthlab.data.sources import SOURCES, fingerprint
from depthlab.data.splits import stratified_split
from depthlab.data.stream import TrainStream
from depthlab.errors import InputError

SPLITS = ("train", "val", "test")
BlockEnd = Callable[[int], int]  # of the number of a block's first batch: the first one that is not in it


class Batch(NamedTuple):
    """What a step receives: float images (n, C, H, W), int64 labels (n,), and the split they are from."""

    images: Tensor
    labels: Tensor
    split: str


class TrainBatches:
    """The numbers of the batches to come, one validation span at a time, one by one or in blocks.

    A loader in Lightning's sense whose epoch ends where validation is due, so that Lightning validates in steps
    counted from the start of the run, wherever a run was continued.
    """

    def __init__(self, first: int, total: int, span: int, block_end: BlockEnd | None = None) -> None:
        self.next_number = first
        self.total = total
        self.span = span
        self.block_end = block_end

    def __iter__(self) -> Iterator[int | range]:
        stop = min(self.total, (self.next_number // self.span + 1) * self.span)
        while self.next_number < stop:
            first = self.next_number
            self.next_number = first + 1 if self.block_end is None else min(stop, self.block_end(first))
            yield first if self.block_end is None else range(first, self.next_number)


class EvalBatches:
    """The (split, start, stop) of one pass over a split, in batches of at most `batch_size`."""

    def __init__(self, split: str, num_images: int, batch_size: int) -> None:
        self.split = split
        self.num_images = num_images
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        for start in range(0, self.num_images, self.batch_size):
            yield self.split, start, min(start + self.batch_size, self.num_images)


class ImageDataModule(LightningDataModule):
    """CIFAR-10, MNIST or the digits: read, split, and served as batches made on the device.

    One class for all of them: they differ in how they are read (`depthlab.data.sources`) and in nothing else.
    Loaders yield batch numbers; the images behind a number are gathered where Lightning moves a batch to the
    device. `configs/data/` describes the arguments; `first_step`, `max_steps`, `val_every_steps` and
    `batches_per_step` say which batches a run takes.

    Raises:
        InputError: the files are absent or altered, or `val_size` or `batch_size` exceed the images there are.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path,
        seed: int,
        val_size: int,
        split_seed: int,
        batch_size: int,
        eval_batch_size: int,
        crop_padding: int,
        flip: bool,
        normalization: str,
        last_batch: str,
        test_curve: bool,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.seed = seed
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.crop_padding = crop_padding
        self.flip = flip
        self.last_batch = last_batch
        self.test_curve = test_curve
        self.frozen = frozen
        self._on_device: dict[tuple[str, torch.device], DeviceImages] = {}
        self._train_batches: TrainBatches | None = None
        self._read(name, data_dir, val_size, split_seed, normalization)

    def _read(self, name: str, data_dir: Path, val_size: int, split_seed: int, normalization: str) -> None:
        source = SOURCES[name](data_dir)
        num_images = len(source.train_labels)
        if val_size >= num_images:
            raise InputError(
                f"data.val_size={val_size}: the training set of {name} has {num_images} images, "
                "and at least one must be left to train on."
            )
        train, val = stratified_split(source.train_labels, val_size, split_seed)
        self.classes = source.classes
        self.arrays: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {
            "train": (source.train_images[train], source.train_labels[train]),
            "val": (source.train_images[val], source.train_labels[val]),
            "test": (source.test_images, source.test_labels),
        }
        if self.batch_size > len(train):
            raise InputError(f"data.batch_size={self.batch_size}: there are {len(train)} images to train on.")
        self.normalization = fit_normalization(self.arrays["train"][0], normalization)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.arrays["train"][0].shape[1:]
        return height, width, channels

    def num_images(self, split: str) -> int:
        """How many images a split has."""
        return len(self.arrays[split][1])

    def describe(self) -> dict[str, Any]:
        """What a record says of the data."""
        return {
            "name": self.name,
            **{f"num_{split}": self.num_images(split) for split in SPLITS},
            "num_classes": len(self.classes),
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
            "fingerprint": self.fingerprint(),
            "test_curve": self.test_curve,
        }

    def fingerprint(self) -> str:
        """A hash of every image and label, split by split."""
        return fingerprint(array for split in SPLITS for array in self.arrays[split])

    def stream(self, device: torch.device) -> TrainStream:
        """The training batches by number, with draws on `device`."""
        return TrainStream(
            self.num_images("train"),
            self.batch_size,
            self.seed,
            self.crop_padding,
            self.flip,
            self.last_batch,
            self.frozen,
            device,
        )

    def take(self, first: int, total: int, span: int, block_end: BlockEnd | None = None) -> None:
        """Train on batches `first` up to `total`, with a validation whenever `span` batches are full.

        With `block_end` Lightning is given their numbers in blocks, and no images.
        """
        self._train_batches = TrainBatches(first, total, span, block_end)

    def train_dataloader(self) -> TrainBatches:
        """The numbers of the training batches."""
        if self._train_batches is None:
            raise RuntimeError("say which batches to train on with take() first")
        return self._train_batches

    def val_dataloader(self) -> list[EvalBatches]:
        """What is measured along the way: val, where there is one, and test if a test curve was asked for."""
        splits = ["val"] * bool(self.num_images("val")) + ["test"] * self.test_curve
        return [self.eval_batches(split) for split in splits]

    def test_dataloader(self) -> list[EvalBatches]:
        """What is measured once, at the end: every split, without crops and flips."""
        return [self.eval_batches(split) for split in SPLITS if self.num_images(split)]

    def eval_batches(self, split: str) -> EvalBatches:
        """One pass over a split."""
        return EvalBatches(split, self.num_images(split), self.eval_batch_size)

    def train_batch(self, number: int, device: torch.device) -> Batch:
        """Training batch `number`, this process's part of it, made on `device`."""
        draws = self.stream(device).batch(number)
        images, labels = self.on_device("train", device).train_batch(draws.part(*self.share(0, len(draws.flip))))
        return Batch(images, labels, "train")

    def transfer_batch_to_device(
        self, batch: int | range | tuple[str, int, int], device: torch.device, dataloader_idx: int
    ) -> Batch | range:
        """Make the batch that a loader named, this process's part of it, on `device`.

        A block of training batches stays a range of numbers: each is made when its step comes.
        """
        if isinstance(batch, range):
            return batch
        if isinstance(batch, int):
            return self.train_batch(batch, device)
        split, start, stop = batch
        images, labels = self.on_device(split, device).eval_batch(*self.share(start, stop))
        return Batch(images, labels, split)

    def on_device(self, split: str, device: torch.device) -> DeviceImages:
        """The images of a split on `device`, put there at the first call."""
        key = (split, device)
        if key not in self._on_device:
            self._on_device[key] = DeviceImages(
                *self.arrays[split], self.normalization, self.crop_padding if split == "train" else 0, device
            )
        return self._on_device[key]

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """This process's part of the images from `start` up to `stop`: equal parts, the last ones smaller."""
        processes, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        size = -(-(stop - start) // processes)
        return min(start + rank * size, stop), min(start + (rank + 1) * size, stop)
