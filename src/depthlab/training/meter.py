"""Loss and error over many batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
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


def add(sums: Sequence[Tensor], counts: Counts) -> None:
    """Add what `count` found in a batch to the sums of a meter, in place and without waiting for the device."""
    for total, number in zip(sums[:3], counts, strict=True):
        total += number
    loss_sum, _, num_images, finite_loss_sum, num_finite_images = sums
    is_finite = torch.isfinite(loss_sum)  # once it is not it never is again
    finite_loss_sum.copy_(torch.where(is_finite, loss_sum, finite_loss_sum))
    num_finite_images.copy_(torch.where(is_finite, num_images, num_finite_images))


class LossAndError(Metric):
    """Mean cross-entropy and top-1 error in percent over all images seen since the last reset.

    Sums stay on the device: nothing waits for a result until `compute`, which adds up the processes' sums. What was
    seen before the first loss that is not finite is summed apart, so that a run that diverges between two readings
    can say where it did.
    """

    full_state_update = False
    higher_is_better = False
    loss_sum: Tensor
    num_wrong: Tensor
    num_images: Tensor
    finite_loss_sum: Tensor
    num_finite_images: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # float32 of single steps would lose digits over the 50,000 images of an epoch.
        dtype = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("loss_sum", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("num_wrong", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")  # of mixed images, parts
        self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("finite_loss_sum", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("num_finite_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, loss_sum: Tensor | int, num_wrong: Tensor | int, num_images: Tensor | int) -> None:
        """Add what `count` found in a batch."""
        add(self.sums(), (loss_sum, num_wrong, num_images))

    def sums(self) -> list[Tensor]:
        """The sums of this process, which `add` adds to."""
        return [self.loss_sum, self.num_wrong, self.num_images, self.finite_loss_sum, self.num_finite_images]

    def put(self, sums: Sequence[Tensor | float]) -> None:
        """Go on from sums that were saved, or taken elsewhere."""
        self.reset()
        self.update(0, 0, 0)  # so that there is something to compute
        for own, value in zip(self.sums(), sums, strict=False):  # checkpoints of older versions hold the first three
            own.copy_(torch.as_tensor(value, dtype=own.dtype))

    def compute(self) -> Tensor:
        """The sums over all processes, in the order of `Totals`."""
        return torch.stack([value.to(self.loss_sum) for value in self.sums()])


class Totals:
    """Sums of losses, of wrong answers and of images, as plain numbers; the last two up to where losses are finite."""

    def __init__(
        self,
        loss_sum: float = 0.0,
        num_wrong: float = 0.0,
        num_images: float = 0.0,
        finite_loss_sum: float = 0.0,
        num_finite_images: float = 0.0,
    ) -> None:
        self.loss_sum = loss_sum
        self.num_wrong = num_wrong
        self.num_images = num_images
        self.finite_loss_sum = finite_loss_sum
        self.num_finite_images = num_finite_images

    @classmethod
    def of(cls, meter: LossAndError) -> Totals:
        """What `meter` has seen in all processes. Waits for the device."""
        return cls(*meter.compute().tolist()) if meter.update_called else cls()

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(mine + theirs for mine, theirs in zip(self.as_list(), other.as_list(), strict=True)))

    def __sub__(self, other: Totals) -> Totals:
        return Totals(*(mine - theirs for mine, theirs in zip(self.as_list(), other.as_list(), strict=True)))

    def as_list(self) -> list[float]:
        """The sums, for a checkpoint."""
        return [self.loss_sum, self.num_wrong, self.num_images, self.finite_loss_sum, self.num_finite_images]

    @property
    def loss(self) -> float:
        """Mean loss of an image; NaN where no image was seen."""
        return self.loss_sum / self.num_images if self.num_images else float("nan")

    @property
    def finite_loss(self) -> float | None:
        """Mean loss of the images before the first loss that is not finite; None where there are none."""
        return self.finite_loss_sum / self.num_finite_images if self.num_finite_images else None

    @property
    def err(self) -> float:
        """Top-1 error in percent; NaN where no image was seen."""
        return 100 * self.num_wrong / self.num_images if self.num_images else float("nan")
