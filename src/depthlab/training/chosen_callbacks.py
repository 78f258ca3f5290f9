"""The callbacks that a configuration chooses, built and checked before a run writes anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)

from depthlab.config.nearest import nearest
from depthlab.errors import InputError
from depthlab.training.spec import CallbackSpec

# Lightning's callbacks with which a record or a continuation would be wrong, each with the reason and the remedy.
AVERAGING = (
    "replaces the trained weights by averages and keeps the weights in Lightning's checkpoints, which a run does not "
    "write. Use callbacks=ema, which measures the averages beside the last weights."
)
UNSUPPORTED: dict[type[Callback], str] = {
    WeightAveraging: AVERAGING,
    StochasticWeightAveraging: AVERAGING,
    GradientAccumulationScheduler: (
        "changes the number of batches in a step while a run trains. Use trainer.accumulate_grad_batches=N."
    ),
    BatchSizeFinder: "changes data.batch_size, which is part of a run's identity. Set data.batch_size instead.",
    LearningRateFinder: (
        "changes optimizer.lr, which is part of a run's identity. Search for the best rate with hydra/sweeper=search."
    ),
    OnExceptionCheckpoint: (
        "makes Lightning continue from a checkpoint of its own. Leave it out: a run continues from its last checkpoint."
    ),
}


def build_chosen(specs: Mapping[str, CallbackSpec], metrics: Collection[str], has_validation: bool) -> list[Callback]:
    """The callbacks, in the order of the configuration.

    Args:
        specs: those of the configuration.
        metrics: the names of the loss and metrics that evaluations compute.
        has_validation: whether there are validation images.

    Raises:
        InputError: one of Lightning's callbacks cannot work in this run.
    """
    chosen = {name: spec.build() for name, spec in specs.items()}
    logs_others = any(_is_foreign(callback) for callback in chosen.values())
    for name, callback in chosen.items():
        reason = next((reason for kind, reason in UNSUPPORTED.items() if isinstance(callback, kind)), None)
        if reason is not None:
            raise InputError(f"callbacks.{name}: {type(callback).__name__} {reason}")
        monitored = getattr(callback, "monitor", None)
        if isinstance(monitored, str):
            _check_monitor(name, monitored, metrics, has_validation, logs_others)
    return list(chosen.values())


def _check_monitor(
    name: str, monitored: str, metrics: Collection[str], has_validation: bool, logs_others: bool
) -> None:
    """Lightning itself would find out at the first validation, or read the test set."""
    split, _, metric = monitored.partition("/")
    asked = f"callbacks.{name}: {monitored!r}"
    if split == "test":
        raise InputError(f"{asked} cannot be monitored: no choice reads the test set. Use val/{metric}.")
    if split == "val" and not has_validation:
        raise InputError(f"{asked} cannot be monitored: there are no validation images. Set data.val_size above 0.")
    known = [f"{each}/{metric}" for each in ("val", "train") if each != "val" or has_validation for metric in metrics]
    if monitored not in known and not logs_others:
        raise InputError(f"{asked} cannot be monitored: no such metric. {nearest(monitored, known)}")


def _is_foreign(callback: Callback) -> bool:
    """Whether a callback is neither Lightning's nor ours: what it logs can be monitored, and is not known here."""
    return type(callback).__module__.partition(".")[0] not in ("lightning", "pytorch_lightning", "depthlab")
