"""The computations of `mylab.absolute_error`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from depthlab.data.batch import Batch
from depthlab.tasks.spec import LossSpec
from depthlab.tasks.task import Task


class AbsoluteErrorTask(Task):
    """Least absolute deviations."""

    num_sums = 2

    def __init__(self, tolerance: float, loss: LossSpec | None = None) -> None:
        super().__init__(loss)
        self.tolerance = tolerance

    def own_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.l1_loss(outputs, targets)

    def own_loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().flatten(1).mean(dim=1).sum()

    def sums(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        errors = (outputs.detach() - batch.labels).abs().flatten(1).mean(dim=1)
        return errors.sum(), (errors <= self.tolerance).sum()

    def values(self, sums: Sequence[float], num_images: float) -> dict[str, float]:
        if not num_images:
            return {"mae": float("nan"), "within": float("nan")}
        return {"mae": sums[0] / num_images, "within": 100 * sums[1] / num_images}
