"""What every data set and every augmentation declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from depthlab.config.registry import define_group
from depthlab.config.spec import OptionalSpec, Spec, composed_values, key, keys_of
from depthlab.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from depthlab.data.source import ImageSource


@define_group("data", selector="name")
@dataclass(frozen=True)
class ImagesSpec(Spec):
    """Which images, how they are split, and what happens to them on the way into the network."""

    targets: ClassVar[str] = "classes"  # "numbers" or "images" for regression
    # Whether the images cannot change under their name: the sums of their files are checked, or a library holds them.
    is_fixed: ClassVar[bool] = False

    split_seed: int = key(
        0, minimum=0, below=2**32, help="which images are set aside; not the run's seed: all seeds share one split"
    )
    batch_size: int = key(
        128, maximum=10**6, column=True, positive=True, help="images in one optimiser step, over all processes"
    )
    eval_batch_size: int = key(1000, maximum=10**6, positive=True, help="images in a batch of an evaluation")
    crop_padding: int = key(
        0, maximum=1000, minimum=0, help="zeros on each side, then a random crop of the original size"
    )
    flip: bool = key(False, help="mirror half of the training images")
    normalization: str = key(
        "per_pixel",
        choices=("per_pixel", "per_channel"),
        help="per_pixel: the mean image of the training images is subtracted; per_channel: mean and deviation",
    )
    last_batch: str = key(
        "wrap",
        choices=("wrap", "short"),
        help="wrap: every batch is full and runs on into the next epoch; short: an epoch ends with what is left",
    )
    test_curve: bool = key(False, help="measure the test set while training too, for curves only (Figure 6)")
    fold: int | None = key(None, identity_default=None, help="with num_folds: this fold is val; val_size is not used")
    num_folds: int | None = key(None, identity_default=None, help="stratified, dealt by split_seed")
    classes: list[str] | None = key(None, identity_default=None, help="these alone, their labels in this order")
    images_per_class: int | None = key(
        None, identity_default=None, positive=True, help="so many training images of each class, drawn by split_seed"
    )

    @property
    def name(self) -> str:
        """The name under which the data set is registered."""
        return self.registered

    def read(self, data_dir: Path) -> ImageSource:
        """The images, read here and not before: a configuration is checked without them.

        Raises:
            InputError: they are absent or altered.
        """
        raise InputError(f"data.name={self.registered}: its spec has no method `read`.")

    def num_val(self, num_train: int) -> int:
        """How many of `num_train` training images are set aside for validation where there are no folds."""
        raise InputError(f"data.name={self.registered}: its spec does not say how many images are set aside.")

    def describe(self) -> dict[str, Any]:
        """Entries of a record's description of the data, in addition to their sizes."""
        return {}

    def check(self) -> None:
        """Refuse folds that there are not, and classes that are none."""
        self._check_folds()
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise InputError(f"data.classes={self.classes}: give two or more classes, each once.")
        given = [name for name in ("num_folds", "classes", "images_per_class") if getattr(self, name) is not None]
        if given and self.targets != "classes":
            raise InputError(f"data.{given[0]}: it needs classes, and data={self.registered} has none.")

    def _check_folds(self) -> None:
        if self.fold is not None and self.num_folds is None:
            raise InputError(f"data.fold={self.fold}: a fold of how many? Give data.num_folds=5, say.")
        if self.num_folds is not None and self.fold is None:
            raise InputError(
                f"data.num_folds={self.num_folds}: which of them? Give data.fold=0, or -m 'data.fold=range(5)'."
            )
        if self.num_folds is not None and self.num_folds < 2:
            raise InputError(f"data.num_folds={self.num_folds}: at least 2.")
        if self.fold is not None and self.num_folds is not None and not 0 <= self.fold < self.num_folds:
            raise InputError(
                f"data.fold={self.fold}: no such fold; data.num_folds={self.num_folds} are counted from 0 to "
                f"{self.num_folds - 1}."
            )


@dataclass(frozen=True)
class DataSpec(ImagesSpec):
    """A data set with an official test split: `val_size` images of its training set are set aside."""

    val_size: int = key(0, minimum=0, help="training images set aside, stratified; 0: train on all, val/* is null")

    def num_val(self, num_train: int) -> int:
        return self.val_size


@define_group("augment", reserved=("label_smoothing",))
@dataclass(frozen=True)
class AugmentationSpec(OptionalSpec):
    """Something done to training batches, drawn by (seed, epoch, position) and applied on the device.

    The numbers are drawn for a whole epoch from a stream of its own, so that switching it on leaves every other draw as
    it was. At the defaults of its keys an augmentation is off.
    """

    # "bytes": factors of brightness, contrast and saturation before the crop; "mix": see depthlab.data.augment.
    stage: ClassVar[str] = "images"

    @classmethod
    def off_value(cls) -> Any:
        """Its keys at their defaults."""
        values = composed_values(cls)
        return values[cls.main] if cls.main is not None and list(values) == [cls.main] else values

    @property
    def is_on(self) -> bool:
        """Whether a key differs from its default."""
        return self.values() != {name: info.composed for name, info in keys_of(type(self)).items()}

    def draw(
        self, random: Callable[[str], np.random.RandomState], num_images: int, height: int, width: int
    ) -> tuple[NDArray[Any], ...]:
        """The random numbers of an epoch, arrays whose first axis has `num_images`.

        Args:
            random: a generator for a stream of this name; its numbers depend on (seed, epoch, name) alone.
            num_images: positions in an epoch.
            height, width: of the images.
        """
        raise InputError(f"augment.{self.registered}: its spec has no method `draw`.")

    def apply(self, images: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
        """Augmented images (n, C, H, W), float32 and normalised, with the draws of their positions."""
        raise InputError(f"augment.{self.registered}: its spec has no method `apply`.")
