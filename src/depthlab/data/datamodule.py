"""The LightningDataModule of every data set: numbered batches, turned into images on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from depthlab.data.augment import OFF, Augmentation, Augmenter
from depthlab.data.device_images import DeviceImages, fit_normalization
from depthlab.data.image_files import FileImages
from depthlab.data.image_folders import ImageFolder
from depthlab.data.selection import Selection, choose_classes
from depthlab.data.sources import SOURCES, Labelled, fingerprint
from depthlab.data.streamed_images import StreamedImages
from depthlab.data.train_stream import AugmentParams, TrainStream
from depthlab.errors import InputError

SPLITS = ("train", "val", "test")
BlockEnd = Callable[[int], int]  # of the number of a block's first batch: the first one that is not in it
PREFETCHED = 2  # batches of images on disk that are decoded ahead


class Batch(NamedTuple):
    """What a step receives: float images (n, C, H, W), int64 labels (n,), and the split they are from.

    Where images are mixed, `weight` (n,) is the share of `labels` in each, and the rest is that of `other_labels` (n,).
    """

    images: Tensor
    labels: Tensor
    split: str
    other_labels: Tensor | None = None
    weight: Tensor | None = None


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
    """A data set, read, split, and served as batches made on the device.

    One class for all of them: they differ in how they are read (`depthlab.data.sources` or `folder`) and in nothing
    else.
    Loaders yield batch numbers; the images behind a number are gathered where Lightning moves a batch to the
    device. `configs/data/` describes the arguments; `take` says which batches a run takes.

    Raises:
        InputError: the files are absent or altered, there is no such class, or there are fewer images than asked for.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path,
        seed: int,
        split_seed: int,
        batch_size: int,
        eval_batch_size: int,
        crop_padding: int,
        flip: bool,
        normalization: str,
        last_batch: str,
        test_curve: bool,
        val_size: int = 0,
        fold: int | None = None,
        num_folds: int | None = None,
        classes: Sequence[str] | None = None,
        images_per_class: int | None = None,
        folder: ImageFolder | None = None,
        augmentation: Augmentation = OFF,
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
        self.folder = folder
        self.augmentation = augmentation
        self.frozen = frozen
        self._on_device: dict[tuple[str, torch.device], DeviceImages | StreamedImages] = {}
        self._train_batches: TrainBatches | None = None
        source = SOURCES[name](data_dir) if folder is None else folder.read(split_seed)
        if classes is not None:
            source = choose_classes(source, classes)
        self.classes = source.classes
        size = val_size if folder is None else folder.val_size(len(source.train_labels))
        self.selection = Selection(size, split_seed, fold, num_folds, images_per_class)
        self.arrays: dict[str, Labelled] = self.selection.divide(source, name)
        if batch_size > self.num_images("train"):
            raise InputError(f"data.batch_size={batch_size}: there are {self.num_images('train')} images to train on.")
        self.normalization = fit_normalization(self.arrays["train"][0], normalization)
        # Folds are repetitions of one recipe on the same images, whichever of them are held out.
        whole = [source.train_images, source.train_labels, source.test_images, source.test_labels]
        self._fingerprint = None if fold is None else fingerprint(whole)

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
        streamed = {"streamed": isinstance(self.arrays["train"][0], FileImages)}
        return {
            "name": self.name,
            **({} if self.folder is None else {"folder": Path(self.folder.folder).name, **streamed}),
            **{f"num_{split}": self.num_images(split) for split in SPLITS},
            "num_classes": len(self.classes),
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
            "fingerprint": self.fingerprint(),
            "test_curve": self.test_curve,
        }

    def fingerprint(self) -> str:
        """A hash of every image and label, split by split; with folds, of all that they are made of."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(array for split in SPLITS for array in self.arrays[split])
        return self._fingerprint

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
        held = self.on_device("train", device)
        stream = self.stream(held.draws_device)
        draws = self._needed(stream.batch(number))
        if isinstance(held, StreamedImages):
            held.prefetch(draws.image_idx.numpy())
            for later in range(number + 1, number + 1 + PREFETCHED):
                held.prefetch(self._needed(stream.batch(later)).image_idx.numpy())
        if self.augmentation.is_off:
            images, labels = held.train_batch(draws)
            return Batch(images, labels, "train")
        augmenter = Augmenter(self.augmentation, stream, *self.image_shape[:2], device)
        mixed = augmenter.batch(held, draws, number)
        own = slice(*self.share(0, len(draws.flip)))
        return Batch(mixed.images[own], mixed.labels[own], "train", *mixed.others(own))

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
        held = self.on_device(split, device)
        images, labels = held.eval_batch(*self.share(start, stop))
        if isinstance(held, StreamedImages):
            held.prefetch(np.arange(*self.share(stop, min(2 * stop - start, len(held)))))
        return Batch(images, labels, split)

    def _needed(self, draws: AugmentParams) -> AugmentParams:
        """This process's part of a batch; all of it where an image may be mixed with one of another part."""
        return draws.part(*self.share(0, len(draws.flip))) if self.augmentation.is_off else draws

    def on_device(self, split: str, device: torch.device) -> DeviceImages | StreamedImages:
        """The images of a split on `device`, put there at the first call, or those on disk made ready for it."""
        key = (split, device)
        if key not in self._on_device:
            images, labels = self.arrays[split]
            padding = self.crop_padding if split == "train" else 0
            self._on_device[key] = (
                StreamedImages(images, labels, self.normalization, padding, device)
                if isinstance(images, FileImages)
                else DeviceImages(images, labels, self.normalization, padding, device)
            )
        return self._on_device[key]

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """This process's part of the images from `start` up to `stop`: equal parts, the last ones smaller."""
        processes, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        size = -(-(stop - start) // processes)
        return min(start + rank * size, stop), min(start + (rank + 1) * size, stop)
