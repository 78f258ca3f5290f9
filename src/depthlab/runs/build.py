"""From a checked configuration to the objects of a run."""

from __future__ import annotations

import contextlib
import logging
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from depthlab.config.images import ImageSpec
from depthlab.config.schema import TrainConfig, TrainerConfig
from depthlab.data.augment import build_augmentation
from depthlab.data.device_images import Normalization
from depthlab.data.sources import no_downloads
from depthlab.models import TwoStream, download_weights, freeze, load_weights, read_weights
from depthlab.models.weights import as_state
from depthlab.optim.parameter_groups import parameter_groups
from depthlab.optim.schedules import Schedule
from depthlab.records.checkpoints import load_checkpoint
from depthlab.records.weight_files import find_weights, weights_hash

if TYPE_CHECKING:  # Lightning is imported where it is needed: a network for predictions is built without it
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.profilers import Profiler

    from depthlab.data.datamodule import ImageDataModule
    from depthlab.training.graph_steps import StepChunks
    from depthlab.training.module import SupervisedModule
    from depthlab.training.plan import Plan


def build_data(config: TrainConfig, may_download: bool = True) -> ImageDataModule:
    """The data module, its images read and split.

    Args:
        config: of the run.
        may_download: whether a data set that is not there may be downloaded, and the folder for it be made.
    """
    from depthlab.data.datamodule import ImageDataModule

    data = ImageDataModule(
        config.data,
        Path(config.paths.data_dir),
        config.seed,
        build_augmentation(config.augmentations),
        config.trainer.overfit_one_batch,
    )
    with contextlib.nullcontext() if may_download else no_downloads():
        data.setup()
    return data


def build_network(
    config: TrainConfig, images: ImageSpec, num_outputs: int, normalization: Normalization | None = None
) -> nn.Module:
    """The network for such images, with initial weights that follow from the seed alone.

    A network in two streams takes the brightness of images from how they were normalised, where that is known; a
    checkpoint holds it too.
    """
    torch.manual_seed(config.seed)
    if config.model.two_stream:
        streams = TwoStream(lambda in_channels: config.model.build(images._replace(channels=in_channels), num_outputs))
        if normalization is not None:
            streams.rgbl.set_deviations(normalization.deviations())
        network: nn.Module = streams
    else:
        network = config.model.build(images, num_outputs)
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
        schedule.shape(config.trainer.max_steps),
        schedule.warmup_steps,
        schedule.warmup_factor,
        schedule.warmup_shape,
    )


def build_module(config: TrainConfig, network: nn.Module, num_outputs: int) -> SupervisedModule:
    """The LightningModule around a network; the parts to be frozen are, from here on."""
    from depthlab.training.module import SupervisedModule

    freeze(network, config.model.freeze)
    task = config.task.build(config.loss, config.augment.label_smoothing)
    metrics = {name: spec.build(num_outputs) for name, spec in config.metrics.items()}
    return SupervisedModule(network, partial(_build_optimizer, config), build_schedule(config), task, metrics)


def _build_optimizer(config: TrainConfig, network: nn.Module, captured: bool = False) -> torch.optim.Optimizer:
    """`captured` says that gradients are clipped inside of captured steps, and not by Lightning."""
    optimizer, trainer = config.optimizer, config.trainer
    groups = parameter_groups(
        network, optimizer.weight_decay, optimizer.decay_norm_and_bias, optimizer.backbone_lr_factor
    )
    # Lightning clips no gradients for an optimiser that could unscale them itself. Where nothing is said torch chooses.
    is_fused = captured or (trainer.accelerator == "gpu" and trainer.gradient_clip_val is None)
    return optimizer.build(groups, True if is_fused else None)


def build_chunks(config: TrainConfig, plan: Plan, callbacks: list[Callback]) -> tuple[StepChunks | None, str | None]:
    """How steps are grouped for replay, None where each is taken by itself; and why, where replay was asked for."""
    from depthlab.training.graph_steps import StepChunks, why_not_capturable

    trainer = config.trainer
    if trainer.steps_per_replay == 1:
        return None, None
    reason = why_not_capturable(
        trainer.accelerator,
        trainer.precision,
        trainer.strategy,
        trainer.accumulate_grad_batches,
        trainer.gradient_clip_val is not None and trainer.gradient_clip_algorithm == "value",
        config.data.last_batch,
        trainer.detect_anomaly,
        callbacks,
    )
    if reason:
        asked = f"trainer.steps_per_replay={trainer.steps_per_replay}"
        return None, f"{asked} is not possible: {reason}. Steps are taken one by one, slower."
    every = (plan.log_every_steps, plan.val_every_steps, plan.save_every_steps or plan.max_steps)
    return StepChunks(trainer.steps_per_replay, every, (plan.last_epoch_start, plan.max_steps)), None


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
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import Checkpoint, ProgressBar

    quieten_lightning()
    torch.backends.cudnn.allow_tf32 = False  # by default convolutions in float32 would keep ten bits of it
    trainer = Trainer(
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
        # Lightning adds neither by itself, but refuses the user's own where these are False.
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    # Lightning would wrap our handlers, and a run that is asked to stop would end without a checkpoint, exit code 0.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _profiler(kind: str | None, directory: Path | None) -> Profiler | None:
    from lightning.pytorch.profilers import PyTorchProfiler, SimpleProfiler

    classes: dict[str, Any] = {"simple": SimpleProfiler, "pytorch": PyTorchProfiler}
    return None if kind is None else classes[kind](dirpath=directory, filename="profile")


def quieten_lightning() -> None:
    """Keep Lightning from printing the same lines in every run; warnings and what callbacks say still pass."""
    # "GPU available", "Seed set to" and advertisements come as INFO.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.callbacks").setLevel(logging.INFO)
    # Lightning 2.6 calls a function of torch.utils._pytree that newer versions of torch are about to rename.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    # A run without validation images has no validation loader, on purpose.
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero.*")
    # It finds the number of images in a batch, which also holds the name of the split.
    warnings.filterwarnings("ignore", message="Trying to infer the `batch_size` from an ambiguous collection.*")
    # Our meters add up the processes' sums before a value is logged.
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log.*sync_dist=True.*")
