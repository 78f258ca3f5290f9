"""Loss and error over many batches and processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

Counts = tuple[Tensor | int, ...]


def count(
    scores: Tensor,
    labels: Tensor,
    loss_sum: Tensor,
    other_labels: Tensor | None = None,
    weight: Tensor | None = None,
) -> Counts:
    """Sum of losses, number of wrong answers and number of images: scores (n, num_classes), labels (n,).

    An answer to a mixed image is right by the share of its class: `weight` (n,) if it is in `labels`, the rest if it
    is in `other_labels`.
    """
    predicted = scores.detach().argmax(dim=1)
    wrong: Tensor = predicted != labels
    if other_labels is not None and weight is not None:
        wrong = wrong * weight + (predicted != other_labels) * (1 - weight)
    return loss_sum.detach(), wrong.sum(), labels.numel()


class LossAndError(Metric):
    """Mean cross-entropy and top-1 error in percent over all images seen since the last reset.

    Sums stay on the device: nothing waits for a result until `compute`, which adds up the processes' sums.
    """

    full_state_update = False
    higher_is_better = False
    loss_sum: Tensor
    num_wrong: Tensor
    num_images: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # float32 of single steps would lose digits over the 50,000 images of an epoch.
        dtype = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("loss_sum", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("num_wrong", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")  # of mixed images, parts
        self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, loss_sum: Tensor | int, num_wrong: Tensor | int, num_images: Tensor | int) -> None:
        """Add what `count` found in a batch, or what it found in several."""
        self.loss_sum += loss_sum
        self.num_wrong += num_wrong
        self.num_images += num_images

    def sums(self) -> list[Tensor]:
        """The three sums of this process, in the order in which `update` takes them."""
        return [self.loss_sum, self.num_wrong, self.num_images]

    def put(self, loss_sum: float, num_wrong: float, num_images: float) -> None:
        """Go on from sums that were saved."""
        self.loss_sum.fill_(loss_sum)
        self.num_wrong.fill_(num_wrong)
        self.num_images.fill_(int(num_images))

    def compute(self) -> Tensor:
        """[sum of losses, number wrong, number of images], over all processes."""
        return torch.stack([self.loss_sum, self.num_wrong, self.num_images.to(self.loss_sum)])


class Totals:
    """Sums of losses, of wrong answers and of images, as plain numbers."""

    def __init__(self, loss_sum: float = 0.0, num_wrong: float = 0.0, num_images: float = 0.0) -> None:
        self.loss_sum = loss_sum
        self.num_wrong = num_wrong
        self.num_images = num_images

    @classmethod
    def of(cls, meter: LossAndError) -> Totals:
        """What `meter` has seen in all processes. Waits for the device."""
        return cls(*meter.compute().tolist()) if meter.update_called else cls()

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(mine + theirs for mine, theirs in zip(self.as_list(), other.as_list(), strict=True)))

    def __sub__(self, other: Totals) -> Totals:
        return Totals(*(mine - theirs for mine, theirs in zip(self.as_list(), other.as_list(), strict=True)))

    def as_list(self) -> list[float]:
        """The three sums, for a checkpoint."""
        return [self.loss_sum, self.num_wrong, self.num_images]

    @property
    def loss(self) -> float:
        """Mean loss of an image; NaN where no image was seen."""
        return self.loss_sum / self.num_images if self.num_images else float("nan")

    @property
    def err(self) -> float:
        """Top-1 error in percent; NaN where no image was seen."""
        return 100 * self.num_wrong / self.num_images if self.num_images else float("nan")
