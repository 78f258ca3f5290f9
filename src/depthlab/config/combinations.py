"""The checks of keys against those of other groups: what each component can check alone it checks itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthlab.errors import InputError

if TYPE_CHECKING:
    from depthlab.config.schema import TrainConfig


def check_combinations(config: TrainConfig) -> None:
    """Refuse keys of different groups that contradict each other.

    Raises:
        InputError: names the keys, their values and the remedy.
    """
    check_name("name", config.name)
    _check_trainer(config)
    _check_augmentations(config)
    _check_task(config)
    factor = config.optimizer.backbone_lr_factor
    if factor != 1 and config.model.freeze == "backbone":
        raise InputError(f"optimizer.backbone_lr_factor={factor}: model.freeze=backbone leaves it nothing to train.")
    for name, callback in config.callbacks.items():
        problem = callback.conflict(config)
        if problem:
            raise InputError(f"callbacks={name}: {problem}")


def check_name(key: str, value: str) -> None:
    """Refuse what cannot be a part of a path."""
    if not value or value.startswith(".") or not all(c.isalnum() or c in "._-" for c in value):
        raise InputError(f"{key}={value!r}: use letters, digits, '.', '_' and '-' only.")


def _check_trainer(config: TrainConfig) -> None:
    trainer, data = config.trainer, config.data
    if trainer.devices == 0 or trainer.devices < -1:
        raise InputError(f"trainer.devices={trainer.devices}: a number of processes, or -1 for every GPU.")
    if trainer.devices > 1 and data.batch_size % trainer.devices:
        raise InputError(
            f"data.batch_size={data.batch_size}: {trainer.devices} processes cannot have equal parts of it, "
            "and the mean of their gradients would not be that of the batch. Choose a multiple."
        )
    if trainer.strategy == "ddp" and data.last_batch == "short":
        raise InputError("data.last_batch=short: several processes need full batches. Use data.last_batch=wrap.")
    if trainer.strategy == "auto" and trainer.devices != 1:
        raise InputError(
            f"trainer.devices={trainer.devices}: several processes need trainer=ddp (GPUs) or trainer=ddp_cpu."
        )


def _check_augmentations(config: TrainConfig) -> None:
    augment = {name: spec.to_value(spec) for name, spec in config.augmentations.items()}
    if config.augment.label_smoothing:
        augment["label_smoothing"] = config.augment.label_smoothing
    for name, value in augment.items():
        if config.trainer.overfit_one_batch:
            raise InputError(
                f"augment.{name}={value} trainer.overfit_one_batch=true: the objective is to learn one batch as it is, "
                f"every image its own label. Set augment.{name}=0."
            )
    mixing = [name for name, spec in config.augmentations.items() if spec.stage == "mix"]
    if config.data.batch_size == 1 and mixing:
        raise InputError("data.batch_size=1: mixup and cutmix mix images of one batch, and need two or more.")


def _check_task(config: TrainConfig) -> None:
    task, data, model = config.task, config.data, config.model
    if data.targets not in task.targets:
        raise InputError(
            f"task={task.registered}: it learns {' or '.join(task.targets)}, and data={data.registered} "
            f"has {data.targets}."
        )
    needed = "images" if data.targets == "images" else "vectors"
    if model.output != needed:
        raise InputError(
            f"model={model.registered}: it returns {model.output}, and task={task.registered} on "
            f"data={data.registered} needs {needed}."
        )
    if config.loss is not None and data.targets not in config.loss.targets:
        raise InputError(
            f"loss={config.loss.registered}: it is for {' or '.join(config.loss.targets)}, not {data.targets}."
        )
    for name, metric in config.metrics.items():
        if data.targets not in metric.targets:
            raise InputError(f"metrics={name}: it measures {' or '.join(metric.targets)}, not {data.targets}.")
    mixing = [name for name, spec in config.augmentations.items() if spec.stage == "mix"]
    if data.targets != "classes" and (mixing or config.augment.label_smoothing):
        what = mixing[0] if mixing else "label_smoothing"
        raise InputError(f"augment.{what}: it changes labels of classes, and data={data.registered} has none.")
    if mixing and not task.mixes:
        raise InputError(f"augment.{mixing[0]}: task={task.registered} does not take images with two labels.")
    if data.targets == "images" and (data.crop_padding or data.flip):
        raise InputError(
            "data.crop_padding, data.flip: a target image would have to be cropped and mirrored with its input. "
            "Set data.crop_padding=0 data.flip=false."
        )
