"""What a task computes: the loss of a batch, and the sums that its metrics are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from depthlab.data.batch import Batch
    from depthlab.tasks.spec import LossSpec


class Task(ABC):
    """Loss and metrics of one kind of target.

    Metrics are functions of sums over images, so that steps, processes and continued runs add up exactly, and nothing
    waits for the device before a reading.

    Args:
        loss: replaces the task's own loss.
        label_smoothing: the part of a training label that is spread over all classes (Szegedy et al. 2016).
    """

    num_sums: ClassVar[int]  # beside the loss and the number of images

    def __init__(self, loss: LossSpec | None = None, label_smoothing: float = 0.0) -> None:
        self.loss = loss
        self.label_smoothing = label_smoothing

    def train_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The mean loss of a training batch."""
        if self.loss is None:
            return self.own_loss(outputs, batch.labels)
        return self.loss.per_image(outputs, batch.labels, self.label_smoothing).mean()

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of the losses of a batch that is evaluated; labels are not smoothed."""
        if self.loss is None:
            return self.own_loss_sum(outputs, targets)
        return self.loss.per_image(outputs, targets, 0.0).sum()

    @abstractmethod
    def own_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch where no other loss was chosen."""

    @abstractmethod
    def own_loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of the losses of the images."""

    @abstractmethod
    def sums(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """`num_sums` sums over the images of a batch, without gradients."""

    @abstractmethod
    def values(self, sums: Sequence[float], num_images: float) -> dict[str, float]:
        """The metrics, from `sums` added up over `num_images` images; NaN where there were none."""


class ClassificationTask(Task):
    """Cross-entropy and top-1 error in percent: outputs (n, num_classes), labels int64 (n,)."""

    num_sums = 1

    def train_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of a mixed image, the loss for each of its two labels counts by that label's share."""
        if batch.other_labels is None or batch.weight is None:
            return super().train_loss(outputs, batch)
        one, other = (self._per_image(outputs, labels) for labels in (batch.labels, batch.other_labels))
        return other.lerp(one, batch.weight).mean()

    def own_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def own_loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="sum")

    def sums(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """The number of wrong answers. An answer to a mixed image is right by the share of its class."""
        predicted = outputs.detach().argmax(dim=1)
        wrong: Tensor = predicted != batch.labels
        if batch.other_labels is not None and batch.weight is not None:
            wrong = wrong * batch.weight + (predicted != batch.other_labels) * (1 - batch.weight)
        return (wrong.sum(),)

    def values(self, sums: Sequence[float], num_images: float) -> dict[str, float]:
        return {"err": 100 * sums[0] / num_images if num_images else float("nan")}

    def _per_image(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.loss is None:
            return F.cross_entropy(outputs, labels, reduction="none", label_smoothing=self.label_smoothing)
        return self.loss.per_image(outputs, labels, self.label_smoothing)


class RegressionTask(Task):
    """Mean squared error and R²: outputs and targets (n, k), or images (n, C, H, W), float32.

    R² = 1 - SSE / SST over all values together, SST about the mean of all targets (torchmetrics' R2Score with one
    output).
    """

    num_sums = 3

    def own_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def own_loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(dim=1).sum()

    def sums(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """Means over each image's values of squared errors, of targets and of squared targets, summed over images."""
        targets = batch.labels
        squared = (outputs.detach() - targets).square()
        return tuple(values.flatten(1).mean(dim=1).sum() for values in (squared, targets, targets.square()))

    def values(self, sums: Sequence[float], num_images: float) -> dict[str, float]:
        if not num_images:
            return {"mse": float("nan"), "r2": float("nan")}
        squared, total, squares = sums
        variation = squares - total**2 / num_images
        return {"mse": squared / num_images, "r2": 1 - squared / variation if variation > 0 else float("nan")}
