"""Images that stay files: decoded by threads when they are asked for, and otherwise used like an array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from depthlab.errors import InputError

# Images at a time where all are read, so that float copies of a whole set are never in memory.
CHUNK_IMAGES = 5000
CHUNK_BYTES = 2**25
MOST_ASPECT = 100  # the longer side to the shorter one
SHOWN = 5  # broken files; more have one cause

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]


class FileImages:
    """Images of one size in files, uint8 (N, H, W, 3) once they are decoded. PIL decodes outside Python's lock.

    Args:
        paths: one file for each image.
        image_size: the shorter side is scaled to it and the centre cut out; None takes the files as they are, all of
            the first one's height and width.
        pool: the threads that decode.

    Raises:
        InputError: the first file cannot be decoded.
    """

    def __init__(self, paths: Sequence[Path], image_size: int | None, pool: ThreadPoolExecutor) -> None:
        self.paths = list(paths)
        self.pool = pool
        self._decode = partial(decode, image_size=image_size)
        self.image_shape: tuple[int, ...] = self._decode(self.paths[0]).shape

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3)."""
        return len(self.paths), *self.image_shape

    def __iter__(self) -> Iterator[Bytes]:
        return (self._read(path) for path in self.paths)

    def take(self, indices: Indices) -> FileImages:
        """The images with these indices, still as files."""
        taken = FileImages.__new__(FileImages)
        taken.__dict__.update(self.__dict__, paths=[self.paths[idx] for idx in indices])
        return taken

    def __getitem__(self, indices: Indices | slice | int) -> Bytes:
        """Decode images, or one image.

        Raises:
            InputError: files are broken or of another size; it names the first ones.
        """
        chosen = np.arange(len(self))[indices]
        return self.wait(self.start(chosen)) if chosen.ndim else self._read(self.paths[chosen])

    def start(self, indices: Indices) -> list[Future[Bytes]]:
        """Begin to decode images; `wait` returns them."""
        return [self.pool.submit(self._read, self.paths[idx]) for idx in indices]

    def wait(self, pending: Sequence[Future[Bytes]]) -> Bytes:
        """The images (n, H, W, 3) that `start` began with."""
        refuse([error for future in pending if isinstance(error := future.exception(), InputError)])
        images = [future.result() for future in pending]
        return np.stack(images) if images else np.empty((0, *self.image_shape), np.uint8)

    def _read(self, path: Path) -> Bytes:
        image = self._decode(path)
        if image.shape != self.image_shape:
            height, width, _ = self.image_shape
            raise InputError(
                f"{path} is {image.shape[0]}x{image.shape[1]} where others are {height}x{width}. "
                "Give all one size with data.image_size=..."
            )
        return image


Images = Bytes | FileImages


def decode(path: Path, image_size: int | None) -> Bytes:
    """An image file as RGB bytes (H, W, 3), upright; a grey one has three equal channels.

    Of 16 bits the upper 8 are kept, which is what PIL does with colour images of 16 bits itself.

    Raises:
        InputError: the file is no image, broken, of floats or 32-bit integers, or a thin strip that would be scaled.
    """
    picture, _ = open_picture(path, "RGB")
    return np.asarray(picture if image_size is None else fit_square(picture, image_size, str(path)), dtype=np.uint8)


def open_picture(source: Path | Image.Image, mode: str, name: str = "") -> tuple[Image.Image, list[str]]:
    """A picture, upright, in the mode "RGB" or "L"; and what was changed for that, in words.

    Raises:
        InputError: it is no picture, broken, larger than Pillow's limit, or of floating-point numbers.
    """
    try:
        if isinstance(source, Image.Image):
            return _convert(source, mode, name or "the picture")
        with Image.open(source) as file:
            return _convert(file, mode, name or str(source))
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name or str(source)) from None
    except Exception as error:  # a damaged file makes PIL's decoders raise whatever they meet
        reason = str(error).partition("\n")[0] or type(error).__name__
        where = name or str(source)
        raise InputError(
            f"{where} cannot be decoded ({reason}). Remove it, or put a whole copy in its place."
        ) from None


def _too_large(name: str) -> InputError:
    """Before it is decoded: a small file may claim any size and take all memory."""
    return InputError(
        f"{name} is too large: at most {Image.MAX_IMAGE_PIXELS:,} pixels are read. Save it smaller, or remove it."
    )


def _convert(file: Image.Image, mode: str, name: str) -> tuple[Image.Image, list[str]]:
    if Image.MAX_IMAGE_PIXELS is not None and file.width * file.height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(name)
    notes = ["of an animation the first frame is used"] if getattr(file, "is_animated", False) else []
    picture = ImageOps.exif_transpose(file)
    if picture.mode in ("I", "F"):
        kind = "32-bit integers" if picture.mode == "I" else "floats"
        raise InputError(f"{name} holds {kind}, and what is white in it is not known. Save it with 8 or 16 bits.")
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
        notes.append("of 16 bits a channel the upper 8 are kept")
    if "A" in picture.getbands() or "transparency" in picture.info:
        notes.append("transparency is ignored")
    if picture.mode == "CMYK":
        notes.append("CMYK is converted to RGB")
    if mode == "L" and picture.mode not in ("L", "1", "LA"):
        notes.append("colours are converted to grey")
    return picture.convert(mode), notes


def fit_square(picture: Image.Image, size: int, name: str) -> Image.Image:
    """Scale the shorter side to `size` and cut the centre out.

    These are torchvision's resize and center_crop to the pixel, without its import, which takes seconds.

    Raises:
        InputError: the picture is a thin strip, which would take much memory and show next to nothing.
    """
    width, height = picture.size
    shorter = min(width, height)
    if max(width, height) > MOST_ASPECT * shorter:
        raise InputError(
            f"{name} is {width}x{height} pixels: a strip, of which a square of {size} pixels would show next to "
            "nothing. Remove it."
        )
    width, height = int(size * width / shorter), int(size * height / shorter)
    left, top = round((width - size) / 2), round((height - size) / 2)
    scaled = picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + size, top + size))


def refuse(mistakes: Sequence[InputError]) -> None:
    """Raise one InputError that names the first of the mistakes, if there are any."""
    if mistakes:
        more = [f"and {len(mistakes) - SHOWN} more files"] if len(mistakes) > SHOWN else []
        raise InputError("\n".join([*(str(error) for error in mistakes[:SHOWN]), *more]))


def subset(images: Images, indices: Indices) -> Images:
    """Some of the images, in this order."""
    return images.take(indices) if isinstance(images, FileImages) else images[indices]


def chunks(images: Images) -> Iterator[Bytes]:
    """The images, some at a time."""
    size = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), size):
        yield images[start : start + size]
