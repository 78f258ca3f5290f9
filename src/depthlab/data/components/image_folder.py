"""Image files in folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from depthlab.config.registry import register
from depthlab.config.spec import key
from depthlab.data.spec import ImagesSpec
from depthlab.errors import InputError

if TYPE_CHECKING:
    from depthlab.data.source import ImageSource


@register("data", "image_folder")
@dataclass(frozen=True)
class ImageFolder(ImagesSpec):
    """Image files: train/CLASS/*.jpg, val/ and test/ likewise, or CLASS/*.jpg split by the fractions.

    A run is named by the folder's last name, not by where it lies; its record holds a fingerprint of the images.
    """

    folder: str = key(is_path=True, help="a relative folder is looked for here, then in paths.data_dir")
    image_size: int | None = key(
        64,
        maximum=10_000,
        positive=True,
        help="the shorter side is scaled to it and the centre cut out; null: as they are",
    )
    val_fraction: float = key(0.1, minimum=0, help="of the training images, stratified, where there is no val/")
    test_fraction: float = key(0.2, minimum=0, help="of all images, likewise, where there is no test/")
    memory_limit_gib: float = key(
        4.0,
        positive=True,
        identity=False,
        help="decoded images beyond this stay on disk",
    )
    num_workers: int = key(4, maximum=1024, positive=True, identity=False, help="threads that decode")
    batch_size: int = key(
        32, maximum=10**6, column=True, positive=True, help="images in one optimiser step, over all processes"
    )
    eval_batch_size: int = key(100, maximum=10**6, positive=True, help="images in a batch of an evaluation")
    crop_padding: int = key(
        8, maximum=1000, minimum=0, help="zeros on each side, then a random crop of the original size"
    )
    flip: bool = key(True, help="mirror half of the training images")
    normalization: str = key(
        "per_channel",
        choices=("per_pixel", "per_channel"),
        help="per_pixel: the mean image of the training images is subtracted; per_channel: mean and deviation",
    )

    def read(self, data_dir: Path) -> ImageSource:
        from depthlab.data import image_folders

        folder = image_folders.ImageFolder(
            self.folder,
            data_dir,
            self.image_size,
            self.val_fraction,
            self.test_fraction,
            self.memory_limit_gib,
            self.num_workers,
        )
        return folder.read(self.split_seed)

    def num_val(self, num_train: int) -> int:
        return round(self.val_fraction * num_train)

    def describe(self) -> dict[str, Any]:
        return {"folder": Path(self.folder).name}

    def check(self) -> None:
        super().check()
        if PurePath(self.folder).name in ("", ".."):
            raise InputError(f"data.folder={self.folder}: a run is named by its folder's name; give it with its name.")
        if self.val_fraction + self.test_fraction >= 1:
            raise InputError(
                f"data.val_fraction={self.val_fraction} data.test_fraction={self.test_fraction}: "
                "they leave nothing to train on."
            )
