"""Base classes for the specs of tasks, losses and metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from depthlab.config.metric_info import MetricInfo as MetricInfo
from depthlab.config.registry import define_group
from depthlab.config.spec import OptionalSpec, Spec
from depthlab.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

    from depthlab.tasks.task import Task

CLASSES, NUMBERS, IMAGES = "classes", "numbers", "images"


LOSS = MetricInfo("loss")


@define_group("task", selector="name", identity_default="classification")
@dataclass(frozen=True)
class TaskSpec(Spec):
    """What is learned from the images: its kind of targets, its loss, the metrics counted in every step."""

    targets: ClassVar[tuple[str, ...]] = (CLASSES,)  # kinds of targets it learns
    mixes: ClassVar[bool] = False  # whether its loss takes images with two labels, as mixup and cutmix make them
    primary: ClassVar[str] = "loss"  # the metric that tables and progress lines show

    @property
    def name(self) -> str:
        """The name under which the task is registered."""
        return self.registered

    def metrics(self, num_outputs: int) -> dict[str, MetricInfo]:
        """The metrics that `Task.values` computes, without the loss."""
        return {}

    def build(self, loss: LossSpec | None, label_smoothing: float) -> Task:
        """What computes loss and metrics.

        Args:
            loss: replaces the task's own loss.
            label_smoothing: the part of a training label that is spread over all classes.
        """
        raise InputError(f"task.name={self.registered}: its spec has no method `build`.")

    def describe(self, num_outputs: int, extra: dict[str, MetricSpec]) -> dict[str, Any]:
        """The description of the task and its metrics for a record."""
        infos = {"loss": LOSS, **self.metrics(num_outputs), **{name: spec.info for name, spec in extra.items()}}
        metrics = {name: asdict(info) for name, info in infos.items()}
        for described in metrics.values():
            del described["name"]  # it is the key
        return {"name": self.registered, "primary": self.primary, "metrics": metrics}


@define_group("loss", selector="name", identity_default="")
@dataclass(frozen=True)
class LossSpec(Spec):
    """A loss in place of the task's own."""

    targets: ClassVar[tuple[str, ...]] = (CLASSES,)

    @property
    def name(self) -> str:
        """The name under which the loss is registered."""
        return self.registered

    def per_image(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """The loss of each image, (n,), from outputs in float32 and targets as the data set has them."""
        raise InputError(f"loss.name={self.registered}: its spec has no method `per_image`.")


@define_group("metrics")
@dataclass(frozen=True)
class MetricSpec(OptionalSpec):
    """A metric of torchmetrics' kind, measured in every evaluation: not in training steps."""

    targets: ClassVar[tuple[str, ...]] = (CLASSES,)
    info: ClassVar[MetricInfo] = MetricInfo("")

    def build(self, num_outputs: int) -> Metric:
        """A fresh metric: `update(outputs, targets)` per batch, `compute()` returns one number."""
        raise InputError(f"metrics.{self.registered}: its spec has no method `build`.")
