"""Pictures of any kind as the images that a trained network expects: size, channels and normalisation of its run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from depthlab.data.device_images import Normalization, Normalizer
from depthlab.data.image_files import Bytes, FileImages, fit_square, open_picture, refuse
from depthlab.data.image_folders import SUFFIXES, image_files
from depthlab.errors import InputError

LARGEST_SIZE = 100_000  # more than any image has; a checkpoint with a larger number is damaged or means harm
MODES = {1: "L", 3: "RGB"}

# A file, a folder, a picture of PIL, uint8 arrays (H, W), (H, W, C) or (N, H, W, C), or a list of these.
AnyImages = Any
Sources = list[Any] | Bytes | FileImages  # one image each


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before a run's network sees it, and what the network's outputs are called.

    Args:
        normalization: of the run's training images.
        classes: in the order of their labels; none where the run learned no classes.
        image_shape: height, width and channels.
        resizes: whether the run's own images were scaled and cut, so that it goes without saying.
    """

    normalization: Normalization
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    resizes: bool

    def state(self) -> dict[str, Any]:
        """As checkpoints hold it: tensors and plain data."""
        return {
            "scale": self.normalization.scale,
            "offset": self.normalization.offset,
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
            "resizes": self.resizes,
        }

    @classmethod
    def from_state(cls, state: Any, where: str) -> Preprocessing:
        """From the content of a checkpoint.

        Raises:
            InputError: it is not what `state` gives; `where` says whose.
        """
        if not _is_state(state):
            raise InputError(f"{where}: its preprocessing is damaged.")
        height, width, channels = state["image_shape"]
        normalization = Normalization(state["scale"], state["offset"])
        return cls(normalization, tuple(state["classes"]), (height, width, channels), state["resizes"])

    def normalizer(self, device: torch.device | str) -> Normalizer:
        """From bytes (n, H, W, C) to float32 (n, C, H, W) on `device`."""
        return Normalizer(self.normalization, 0, torch.device(device))

    def pictures(self, images: AnyImages) -> Pictures:
        """Any images as a sequence of this size and these channels.

        Raises:
            InputError: there is no image, or a thing that is none.
        """
        return Pictures(_listed(images), self)


@dataclass
class Pictures:
    """Images of one size, each read when it is asked for. `notes` counts what was changed, in words, so far."""

    sources: Sources
    preprocessing: Preprocessing
    notes: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.sources)

    @cached_property
    def names(self) -> list[str]:
        """The files; images without one are numbered."""
        paths = self.sources.paths if isinstance(self.sources, FileImages) else self.sources
        return [str(each) if isinstance(each, Path) else str(idx) for idx, each in enumerate(paths)]

    def batch(self, start: int, stop: int) -> Bytes:
        """Bytes (n, H, W, C).

        Raises:
            InputError: images cannot be decoded; it names the first ones of the batch.
        """
        part = self.sources[start:stop]
        if isinstance(part, np.ndarray) and part.shape[1:] == self.preprocessing.image_shape:
            return part
        images, mistakes = [], []
        for idx, source in enumerate(part, start):
            try:
                images.append(self._read(source, idx))
            except InputError as error:
                mistakes.append(error)
        refuse(mistakes)
        return np.stack(images)

    def _read(self, source: Any, idx: int) -> Bytes:
        height, width, channels = self.preprocessing.image_shape
        if not isinstance(source, Path | Image.Image):
            source = Image.fromarray(source[..., 0] if source.ndim == 3 and source.shape[-1] == 1 else source)
        picture, notes = open_picture(source, MODES[channels], self.names[idx])
        if picture.size != (width, height):
            if not self.preprocessing.resizes:
                notes.append(f"the shorter side is scaled and the centre cut out: {height} x {width}")
            picture = _fit(picture, height, width, self.names[idx])
        self.notes.update(notes)
        return np.asarray(picture, dtype=np.uint8).reshape(height, width, channels)


def _fit(picture: Image.Image, height: int, width: int, name: str) -> Image.Image:
    """Squares exactly as folders of images are prepared for training."""
    if height == width:
        return fit_square(picture, height, name)
    return ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)


def _listed(images: AnyImages) -> Sources:
    """Every image by itself: paths, pictures or arrays; one array (N, H, W, C) stays one."""
    if isinstance(images, FileImages):
        return images
    if isinstance(images, str | Path):
        return _files(Path(images))
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, list | tuple):
        listed: list[Any] = []
        for group in images:
            listed += list(_listed(group))
        if not listed:
            raise InputError("There is no image: the list is empty.")
        return listed
    return _array(images)


def _files(path: Path) -> list[Any]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: there is no such file or folder.")
    files = image_files(path)
    if not files:
        raise InputError(f"{path} holds no image ({', '.join(SUFFIXES)}).")
    return files


def _array(images: Any) -> Bytes:
    """uint8 (N, H, W, C) from one image or several."""
    array = np.asarray(images)
    if array.dtype != np.uint8:
        hint = "(255 * images).round().astype(np.uint8)" if array.dtype.kind == "f" else "images.astype(np.uint8)"
        raise InputError(
            f"images are {array.dtype}; bytes from 0 to 255 are expected, the run normalises them itself: {hint}"
        )
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4)):
        array = array[None]
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4):
        hint = " They look like (N, C, H, W): images.transpose(0, 2, 3, 1)" if array.ndim == 4 else ""
        raise InputError(f"images have the shape {array.shape}; (H, W, C) or (N, H, W, C) is expected.{hint}")
    if not array.size:
        raise InputError(f"There is no image: the array has the shape {array.shape}.")
    return array


def _is_state(state: Any) -> bool:
    if not isinstance(state, dict) or not all(isinstance(state.get(key), Tensor) for key in ("scale", "offset")):
        return False
    shape, classes = state.get("image_shape"), state.get("classes")
    if not (
        isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and 0 < n <= LARGEST_SIZE for n in shape)
    ):
        return False
    scale, offset = state["scale"], state["offset"]
    fits = scale.shape == (shape[2],) and offset.shape == tuple(shape) and shape[2] in MODES
    is_float = scale.dtype == offset.dtype == torch.float32 and bool(scale.isfinite().all() and offset.isfinite().all())
    are_names = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return fits and is_float and are_names and type(state.get("resizes")) is bool
