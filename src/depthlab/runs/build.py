"""From a checked configuration to the objects of a run."""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler
from torch import nn

from depthlab.config.schema import (
    DenseConfig,
    FolderConfig,
    ImagesConfig,
    StepScheduleConfig,
    TrainConfig,
    TrainerConfig,
)
from depthlab.data.augment import Augmentation
from depthlab.data.datamodule import ImageDataModule
from depthlab.data.image_folders import ImageFolder
from depthlab.models import FAMILIES, TwoStream, download_weights, freeze, load_weights, read_weights
from depthlab.models.weights import as_state
from depthlab.optim.optimizers import OPTIMIZERS
from depthlab.optim.schedules import Schedule, Shape, constant, half_cosine, scaled, steps_down
from depthlab.records.checkpoints import load_checkpoint
from depthlab.records.weight_files import find_weights, weights_hash
from depthlab.training.graph_steps import StepChunks, why_not_capturable
from depthlab.training.module import Classifier

# Keys of the group `model` that say what happens around the network.
NOT_ARGUMENTS = ("family", "name", "weights", "drop_classifier", "freeze", "two_stream")


def build_data(config: TrainConfig) -> ImageDataModule:
    """The data module, its images read and split."""
    arguments, data_dir = asdict(config.data), Path(config.paths.data_dir)
    if isinstance(config.data, FolderConfig):
        own = {f.name for f in fields(FolderConfig)} - {f.name for f in fields(ImagesConfig)}
        arguments["folder"] = ImageFolder(data_dir=data_dir, **{key: arguments.pop(key) for key in own})
    strengths = {f.name: getattr(config.augment, f.name) for f in fields(Augmentation)}
    return ImageDataModule(
        **arguments,
        data_dir=data_dir,
        seed=config.seed,
        augmentation=Augmentation(**strengths),
        frozen=config.trainer.overfit_one_batch,
    )


def build_network(
    config: TrainConfig, in_channels: int, num_classes: int, image_size: tuple[int, int] | None = None
) -> nn.Module:
    """The network for such images, with initial weights that follow from the seed alone.

    `image_size` is height and width, which fully connected layers depend on.
    """
    arguments = {key: value for key, value in asdict(config.model).items() if key not in NOT_ARGUMENTS}
    if isinstance(config.model, DenseConfig):
        arguments["image_size"] = image_size
    build = partial(FAMILIES[config.model.family], **arguments, num_classes=num_classes)
    torch.manual_seed(config.seed)
    network = TwoStream(build) if config.model.two_stream else build(in_channels=in_channels)
    # Convolutions of this width are bound by memory traffic; channels last spares them two transpositions each.
    return network.to(memory_format=torch.channels_last)


def start_from(config: TrainConfig, network: nn.Module) -> dict[str, Any] | None:
    """Put the weights of `model.weights` into the network; what a record says of them, None where there are none.

    Raises:
        InputError: they are missing or those of another network.
    """
    model = config.model
    if model.weights is None:
        return None
    path = find_weights(model.weights)
    if path is None:
        state = download_weights(model.name, model.weights)
    elif path == Path(model.weights):
        state = read_weights(path)
    else:  # a run's last checkpoint, which has its sum beside it
        state = as_state(load_checkpoint(path)["network"], str(path))
    num_tensors = load_weights(network, state, model.weights, model.drop_classifier)
    return {"source": model.weights, "content": weights_hash(model.weights), "num_tensors": num_tensors}


def build_schedule(config: TrainConfig) -> Schedule:
    """The learning rate of each step."""
    schedule = config.schedule
    return Schedule(
        config.optimizer.lr,
        _shape(config),
        schedule.warmup_steps,
        schedule.warmup_factor,
        schedule.warmup_shape,
    )


def _shape(config: TrainConfig) -> Shape:
    schedule, max_steps = config.schedule, config.trainer.max_steps
    if isinstance(schedule, StepScheduleConfig):
        milestones = schedule.milestones
        if schedule.scale_to_max_steps:
            milestones = scaled(milestones, schedule.total_steps, max_steps)
        return steps_down(milestones, schedule.factor)
    return half_cosine(schedule.warmup_steps, max_steps) if schedule.name == "cosine" else constant()


def build_classifier(config: TrainConfig, network: nn.Module) -> Classifier:
    """The LightningModule around a network; what is frozen of the network is held from here on."""
    trainer = config.trainer
    arguments = {key: value for key, value in asdict(config.optimizer).items() if key != "name"}
    # Lightning does not clip gradients for a fused optimiser. None, unlike False, leaves foreach to torch.
    fused = True if trainer.accelerator == "gpu" and trainer.gradient_clip_val is None else None
    build_optimizer = partial(OPTIMIZERS[config.optimizer.name], fused=fused, **arguments)
    freeze(network, config.model.freeze)
    return Classifier(network, build_optimizer, build_schedule(config), config.augment.label_smoothing)


def build_blocks(
    config: TrainConfig, last_epoch_start: int, callbacks: list[Callback]
) -> tuple[StepChunks | None, str | None]:
    """How steps are grouped for replay, None where each is taken by itself; and why, where replay was asked for."""
    trainer = config.trainer
    if trainer.steps_per_replay == 1:
        return None, None
    obstacle = why_not_capturable(
        trainer.accelerator,
        trainer.precision,
        trainer.devices,
        trainer.accumulate_grad_batches,
        trainer.gradient_clip_val is not None and trainer.gradient_clip_algorithm == "value",
        config.data.last_batch,
        trainer.detect_anomaly,
        callbacks,
    )
    if obstacle:
        asked = f"trainer.steps_per_replay={trainer.steps_per_replay}"
        return None, f"{asked} is not possible: {obstacle}. Steps are taken one by one, slower, with the same results."
    every = (config.logger.every_steps, trainer.val_every_steps, config.checkpoint.every_steps or trainer.max_steps)
    return StepChunks(trainer.steps_per_replay, every, (last_epoch_start, trainer.max_steps)), None


def build_trainer(
    config: TrainerConfig,
    directory: Path | None,
    loggers: list[Logger],
    callbacks: list[Callback],
    clips: bool = True,
) -> Trainer:
    """Lightning's trainer. Steps, checkpoints and the end of a run are counted by our callbacks, not by it.

    `clips` is False where clipping gradients is left to whoever makes the updates.
    """
    _quieten_lightning()
    torch.backends.cudnn.allow_tf32 = False  # by default convolutions in float32 would keep ten bits of it
    return Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=config.strategy,
        # Under Slurm Lightning would expect a task for each process, and answer SIGUSR1 itself.
        plugins=[LightningEnvironment()],
        precision=config.precision,  # type: ignore[arg-type]  # one of schema.CHOICES
        logger=loggers or False,
        callbacks=callbacks,
        max_epochs=-1,
        max_steps=-1,
        accumulate_grad_batches=config.accumulate_grad_batches,
        gradient_clip_val=config.gradient_clip_val if clips else None,
        gradient_clip_algorithm=config.gradient_clip_algorithm if clips and config.gradient_clip_val else None,
        deterministic=config.deterministic,
        benchmark=not config.deterministic,
        detect_anomaly=config.detect_anomaly,
        profiler=_profiler(config.profiler, directory),
        default_root_dir=directory,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _profiler(kind: str | None, directory: Path | None) -> Profiler | None:
    classes: dict[str, Any] = {"simple": SimpleProfiler, "pytorch": PyTorchProfiler}
    return None if kind is None else classes[kind](dirpath=directory, filename="profile")


def _quieten_lightning() -> None:
    # "GPU available", "Seed set to" and advertisements come as INFO on every run; warnings still pass.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 calls a function of torch.utils._pytree that newer versions of torch are about to rename.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    # A run without validation images has no validation loader, on purpose.
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero.*")
