"""Sums over many batches and processes, from which losses and metrics are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

Counts = tuple[Tensor | int, ...]


def add(sums: Sequence[Tensor], counts: Counts) -> None:
    """Add the counts of a batch to the sums of a meter, in place and without waiting for the device.

    `counts` are the sum of losses, the task's sums, and the number of images.
    """
    for total, number in zip(sums, counts, strict=False):
        total += number
    loss_sum, num_images, (finite_loss_sum, num_finite_images) = sums[0], sums[-3], sums[-2:]
    is_finite = torch.isfinite(loss_sum)  # once it is not it never is again
    finite_loss_sum.copy_(torch.where(is_finite, loss_sum, finite_loss_sum))
    num_finite_images.copy_(torch.where(is_finite, num_images, num_finite_images))


class SumMeter(Metric):
    """Sums over all images seen since the last reset: of losses, of what a task counts, and of images.

    Sums stay on the device: nothing waits for a result until `compute`, which adds up the processes' sums. What was
    seen before the first loss that is not finite is summed apart, so that a run that diverges between two readings
    can say where it did.

    Args:
        num_sums: how many sums the task has.
    """

    full_state_update = False
    loss_sum: Tensor
    num_images: Tensor
    finite_loss_sum: Tensor
    num_finite_images: Tensor

    def __init__(self, num_sums: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # float32 of single steps would lose digits over the 50,000 images of an epoch.
        dtype = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.num_sums = num_sums
        self.add_state("loss_sum", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        for idx in range(num_sums):
            self.add_state(f"sum_{idx}", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("finite_loss_sum", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("num_finite_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, *counts: Tensor | int) -> None:
        """Add the counts of a batch."""
        add(self.sums(), counts)

    def sums(self) -> list[Tensor]:
        """The sums of this process, which `add` adds to."""
        own = [getattr(self, f"sum_{idx}") for idx in range(self.num_sums)]
        return [self.loss_sum, *own, self.num_images, self.finite_loss_sum, self.num_finite_images]

    def put(self, sums: Sequence[Tensor | float]) -> None:
        """Go on from sums that were saved, or taken elsewhere."""
        self.reset()
        self.update(*[0] * (self.num_sums + 2))  # so that there is something to compute
        for own, value in zip(self.sums(), sums, strict=False):  # checkpoints of 0.1.0 lack the last two
            own.copy_(torch.as_tensor(value, dtype=own.dtype))

    def compute(self) -> Tensor:
        """The sums over all processes, in the order of `Totals.as_list`."""
        return torch.stack([value.to(self.loss_sum) for value in self.sums()])


class LateTotals:
    """The sums of a meter on their way to the host, for which nothing waits until they are wanted."""

    def __init__(self, meter: SumMeter) -> None:
        sums = meter.compute()
        self._values = torch.empty_like(sums, device="cpu", pin_memory=sums.is_cuda)
        self._values.copy_(sums, non_blocking=True)
        self._is_there = torch.cuda.Event() if sums.is_cuda else None  # type: ignore[no-untyped-call]  # torch has no types there
        if self._is_there is not None:
            self._is_there.record()

    def get(self) -> Totals:
        """The sums as they were."""
        if self._is_there is not None:
            self._is_there.synchronize()
        return Totals(self._values.tolist())


class Totals:
    """The sums of a meter as plain numbers; the last two up to where losses are finite."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = tuple(values)

    @classmethod
    def zero(cls, num_sums: int) -> Totals:
        """Of no image."""
        return cls([0.0] * (num_sums + 4))

    @classmethod
    def of(cls, meter: SumMeter) -> Totals:
        """What `meter` has seen in all processes. Waits for the device."""
        return cls(meter.compute().tolist()) if meter.update_called else cls.zero(meter.num_sums)

    def __add__(self, other: Totals) -> Totals:
        return Totals([mine + theirs for mine, theirs in zip(self._values, other._values, strict=True)])

    def __sub__(self, other: Totals) -> Totals:
        return Totals([mine - theirs for mine, theirs in zip(self._values, other._values, strict=True)])

    def as_list(self) -> list[float]:
        """The sums, for a checkpoint."""
        return list(self._values)

    @property
    def sums(self) -> tuple[float, ...]:
        """Those of the task."""
        return self._values[1:-3]

    @property
    def num_images(self) -> float:
        """How many images were seen."""
        return self._values[-3]

    @property
    def num_finite_images(self) -> float:
        """How many of them before the first loss that is not finite."""
        return self._values[-1]

    @property
    def loss(self) -> float:
        """Mean loss of an image; NaN where no image was seen."""
        return self._values[0] / self.num_images if self.num_images else float("nan")

    @property
    def finite_loss(self) -> float | None:
        """Mean loss of the images before the first loss that is not finite; None where there are none."""
        return self._values[-2] / self.num_finite_images if self.num_finite_images else None
