"""The LightningDataModule of every data set: numbered batches, turned into images on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from depthlab.config.images import ImageSpec
from depthlab.data.augment import OFF, Augmentation, Augmenter, ParamsByAugmentation
from depthlab.data.batch import SPLITS, Batch
from depthlab.data.device_images import DeviceImages, Normalization, fit_normalization
from depthlab.data.image_files import FileImages
from depthlab.data.loaders import EvalBatches, TrainBatches
from depthlab.data.pictures import Preprocessing
from depthlab.data.selection import Selection, choose_classes
from depthlab.data.source import ImageSource, Labelled, fingerprint
from depthlab.data.spec import ImagesSpec
from depthlab.data.streamed_images import StreamedImages
from depthlab.data.train_stream import AugmentParams, TrainStream
from depthlab.errors import InputError

PREFETCHED = 2  # batches of images on disk that are decoded ahead


class Split(NamedTuple):
    """A data set that was read and split: arrays by split, the classes, and a hash of all of it."""

    arrays: dict[str, Labelled]
    classes: tuple[str, ...]
    fingerprint: str


class BatchParams(NamedTuple):
    """What is random about a training batch: `crops`, and by augmentation what else was drawn, (n, ...) each."""

    crops: AugmentParams
    more: ParamsByAugmentation

    def tensors(self) -> list[Tensor]:
        """All of them in a fixed order."""
        crops = self.crops
        own = [crops.image_idx, crops.top, crops.left, crops.flip]
        return [*own, *(each for draws in self.more.values() for each in draws)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> BatchParams:
        """Parameters of the same augmentations from `tensors`, in the order of `tensors()`."""
        rest = iter(tensors[4:])
        more = {name: tuple(next(rest) for _ in draws) for name, draws in self.more.items()}
        return BatchParams(AugmentParams(*tensors[:4]), more)


class ImageDataModule(LightningDataModule):
    """A data set, read, split, and served as batches made on the device.

    One class for all of them: they differ in how they are read, which their spec says, and in nothing else. Loaders
    yield batch numbers; the images behind a number are gathered where Lightning moves a batch to the device.

    Args:
        spec: the data set, its split and its preparation.
        data_dir: where data sets lie.
        seed: the run's.
        augmentation: what is done to training batches besides crops and flips.
        frozen: every training batch is the first one, without augmentation.

    Raises:
        InputError: when the images are read: the files are absent or altered, there is no such class, or there are
            fewer images than asked for.
    """

    def __init__(
        self,
        spec: ImagesSpec,
        data_dir: Path,
        seed: int,
        augmentation: Augmentation = OFF,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.data_dir = data_dir
        self.seed = seed
        self.augmentation = augmentation
        self.frozen = frozen
        self.train_loader: TrainBatches | None = None
        self._on_device: dict[tuple[str, torch.device], DeviceImages | StreamedImages] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read and split the images, unless that is done."""
        assert self._split

    @cached_property
    def _split(self) -> Split:
        spec, source = self.spec, self._read()
        if spec.classes is not None:
            source = choose_classes(source, spec.classes)
        size = spec.num_val(len(source.train_labels))
        selection = Selection(size, spec.split_seed, spec.fold, spec.num_folds, spec.images_per_class)
        arrays = selection.divide(source, spec.name)
        num_train = len(arrays["train"][1])
        if spec.batch_size > num_train:
            raise InputError(f"data.batch_size={spec.batch_size}: there are {num_train} images to train on.")
        # Folds are repetitions of one recipe on the same images, whichever of them are held out.
        whole = [source.train_images, source.train_labels, source.test_images, source.test_labels]
        parts = whole if spec.fold is not None else [array for split in SPLITS for array in arrays[split]]
        return Split(arrays, tuple(source.classes), fingerprint(parts))

    def _read(self) -> ImageSource:
        try:
            return self.spec.read(self.data_dir)
        except OSError as error:  # of a reader that does not look before it reads
            raise InputError(
                f"data={self.spec.name}: {error.filename or self.data_dir} cannot be read ({error.strerror or error}). "
                "DEPTHLAB_DATA_DIR or paths.data_dir names the folder in which data are looked for."
            ) from None

    @property
    def arrays(self) -> dict[str, Labelled]:
        """Images and targets of each split."""
        return self._split.arrays

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes; none where targets are numbers or images."""
        return self._split.classes

    @cached_property
    def normalization(self) -> Normalization:
        """What the training images ask for."""
        return fit_normalization(self.arrays["train"][0], self.spec.normalization)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What an image goes through outside of training; checkpoints hold it."""
        is_resized = getattr(self.spec, "image_size", None) is not None
        return Preprocessing(self.normalization, self.classes, self.image_shape, is_resized)

    @property
    def num_outputs(self) -> int:
        """How many values, or channels of an image, a network returns: one a class, or as many as targets have."""
        return len(self.classes) or int(self.arrays["train"][1].shape[1])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.arrays["train"][0].shape[1:]
        return height, width, channels

    @property
    def image_spec(self) -> ImageSpec:
        """Size and channels of the images, for a network."""
        return ImageSpec(*self.image_shape)

    def num_images(self, split: str) -> int:
        """How many images a split has."""
        return len(self.arrays[split][1])

    def describe(self) -> dict[str, Any]:
        """What a record says of the data."""
        streamed = isinstance(self.arrays["train"][0], FileImages)
        own = self.spec.describe()
        return {
            "name": self.spec.name,
            **own,
            **({"streamed": streamed} if own else {}),
            **{f"num_{split}": self.num_images(split) for split in SPLITS},
            "num_classes": self.num_outputs,
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
            "fingerprint": self.fingerprint(),
            "test_curve": self.spec.test_curve,
        }

    def fingerprint(self) -> str:
        """A hash of every image and target, split by split; with folds, of all that they are made of."""
        return self._split.fingerprint

    def stream(self, device: torch.device) -> TrainStream:
        """The training batches by number, with draws on `device`."""
        return TrainStream(
            self.num_images("train"),
            self.spec.batch_size,
            self.seed,
            self.spec.crop_padding,
            self.spec.flip,
            self.spec.last_batch,
            self.frozen,
            device,
        )

    def train_dataloader(self) -> TrainBatches:
        """The numbers of the training batches."""
        if self.train_loader is None:
            raise RuntimeError("set train_loader to the batches to train on first")
        return self.train_loader

    def val_dataloader(self) -> list[EvalBatches]:
        """The splits of a validation: val, where there is one, and test where a test curve was asked for."""
        splits = ["val"] * bool(self.num_images("val")) + ["test"] * self.spec.test_curve
        return [self.eval_batches(split) for split in splits]

    def test_dataloader(self) -> list[EvalBatches]:
        """The splits of the final test: every one, without augmentation."""
        return [self.eval_batches(split) for split in SPLITS if self.num_images(split)]

    def eval_batches(self, split: str) -> EvalBatches:
        """One pass over a split."""
        return EvalBatches(split, self.num_images(split), self.spec.eval_batch_size)

    def train_batch(self, number: int, device: torch.device) -> Batch:
        """Training batch `number`, this process's part of it, made on `device`."""
        held = self.on_device("train", device)
        if isinstance(held, StreamedImages):
            for later in range(number, number + 1 + PREFETCHED):
                held.prefetch(self._needed(self.stream(held.draws_device).batch(later)).image_idx.numpy())
        return self.batch_of(self.draw(number, held.draws_device, device), device)

    def draw(self, number: int, device: torch.device, more_device: torch.device) -> BatchParams:
        """Everything random about training batch `number`: crops on `device`, the rest on `more_device`."""
        crops = self._needed(self.stream(device).batch(number))
        return BatchParams(crops, {} if self.augmentation.is_off else self._augmenter(more_device).draw(number))

    def batch_of(self, draws: BatchParams, device: torch.device) -> Batch:
        """The training batch of such draws, made on `device` from them and the images alone."""
        held = self.on_device("train", device)
        if self.augmentation.is_off:
            images, labels = held.train_batch(draws.crops)
            return Batch(images, labels, "train")
        mixed = self._augmenter(device).batch(held, draws.crops, draws.more)
        own = slice(*self.share(0, len(draws.crops.flip)))
        return Batch(mixed.images[own], mixed.labels[own], "train", *mixed.others(own))

    def _augmenter(self, device: torch.device) -> Augmenter:
        height, width, _ = self.image_shape
        return Augmenter(self.augmentation, self.stream(device), height, width, device)

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
            padding = self.spec.crop_padding if split == "train" else 0
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
