"""The typed shape of a configuration: names, types, choices and ranges of every key.

The YAML files in configs/ hold the values, the classes here hold names and types; `checks` holds one to the other.
Nothing in a configuration names Python code: a family, a reader or an optimiser is looked up by its short name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omegaconf import MISSING, OmegaConf


@dataclass
class NetworkConfig:
    """What every network has: a name, the weights it starts from, what of it trains, dropout, a second stream."""

    family: str = MISSING
    name: str = MISSING
    weights: str | None = None
    drop_classifier: bool = False
    freeze: str = "none"
    dropout: float = 0.0
    two_stream: bool = False


@dataclass
class CifarNetConfig(NetworkConfig):
    """A plain or residual network of section 4.2 of the paper, or its form with bottlenecks or pre-activation."""

    depth: int = MISSING
    residual: bool = MISSING
    shortcut: str = MISSING
    block: str = "basic"
    preactivation: bool = False
    stochastic_depth: float = 0.0
    activation_checkpointing: bool = False


@dataclass
class WideNetConfig(NetworkConfig):
    """A wide residual network."""

    depth: int = MISSING
    width_factor: int = MISSING
    stochastic_depth: float = 0.0
    activation_checkpointing: bool = False


@dataclass
class ImageNetConfig(NetworkConfig):
    """A network of Table 1 of the paper, with torchvision's names and variants."""

    depth: int = MISSING
    residual: bool = MISSING
    shortcut: str = MISSING
    preactivation: bool = MISSING
    stem: str = MISSING
    groups: int = MISSING
    width_per_group: int = MISSING
    stochastic_depth: float = 0.0
    activation_checkpointing: bool = False


@dataclass
class DenseConfig(NetworkConfig):
    """Fully connected layers."""

    widths: list[int] = MISSING


@dataclass
class DenseNetConfig(NetworkConfig):
    """torchvision's DenseNet."""

    growth_rate: int = MISSING
    block_config: list[int] = MISSING
    num_init_features: int = MISSING
    bn_size: int = MISSING
    stem: str = MISSING
    activation_checkpointing: bool = False


@dataclass
class ImagesConfig:
    """Which images, how they are split, and what happens to them on the way into the network."""

    name: str = MISSING
    split_seed: int = MISSING
    batch_size: int = MISSING
    eval_batch_size: int = MISSING
    crop_padding: int = MISSING
    flip: bool = MISSING
    normalization: str = MISSING
    last_batch: str = MISSING
    test_curve: bool = MISSING
    fold: int | None = None
    num_folds: int | None = None
    classes: list[str] | None = None
    images_per_class: int | None = None


@dataclass
class DataConfig(ImagesConfig):
    """A published data set: `val_size` images of its training set are set aside."""

    val_size: int = MISSING


@dataclass
class FolderConfig(ImagesConfig):
    """A folder of image files; `image_size` null takes them as they are."""

    folder: str = MISSING
    image_size: int | None = MISSING
    val_fraction: float = MISSING
    test_fraction: float = MISSING
    memory_limit_gib: float = MISSING
    num_workers: int = MISSING


@dataclass
class AugmentConfig:
    """What is done to training batches besides crops and flips; 0 is off."""

    mixup: float = 0.0
    cutmix: float = 0.0
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    label_smoothing: float = 0.0


@dataclass
class SGDConfig:
    """Stochastic gradient descent with momentum."""

    name: str = MISSING
    lr: float = MISSING
    momentum: float = MISSING
    nesterov: bool = MISSING
    weight_decay: float = MISSING
    decay_norm_and_bias: bool = MISSING
    backbone_lr_factor: float = 1.0


@dataclass
class AdamWConfig:
    """Adam with decoupled weight decay."""

    name: str = MISSING
    lr: float = MISSING
    beta1: float = MISSING
    beta2: float = MISSING
    eps: float = MISSING
    weight_decay: float = MISSING
    decay_norm_and_bias: bool = MISSING
    backbone_lr_factor: float = 1.0


@dataclass
class ScheduleConfig:
    """What every schedule has: a warm-up. `warmup_factor` is the first rate as a part of the full one."""

    name: str = MISSING
    warmup_steps: int = MISSING
    warmup_factor: float = MISSING
    warmup_shape: str = MISSING


@dataclass
class StepScheduleConfig(ScheduleConfig):
    """The rate is multiplied by `factor` at each milestone; milestones are written for `total_steps`."""

    milestones: list[int] = MISSING
    factor: float = MISSING
    total_steps: int = MISSING
    scale_to_max_steps: bool = MISSING


@dataclass
class TrainerConfig:
    """Device, processes, precision and length of a run."""

    accelerator: str = MISSING
    devices: int = MISSING
    strategy: str = MISSING
    precision: str = MISSING
    max_steps: int = MISSING
    val_every_steps: int = MISSING
    accumulate_grad_batches: int = MISSING
    gradient_clip_val: float | None = MISSING
    gradient_clip_algorithm: str = MISSING
    bn_statistics: str = MISSING
    num_threads: int | None = MISSING
    deterministic: bool = MISSING
    detect_anomaly: bool = MISSING
    overfit_one_batch: bool = MISSING
    profiler: str | None = MISSING
    compile: bool = False
    steps_per_replay: int = 1


@dataclass
class LoggerConfig:
    """Who is told about the curves besides metrics.csv, and how often."""

    every_steps: int = MISSING
    tensorboard: bool = MISSING
    wandb: bool = MISSING
    wandb_project: str | None = MISSING


@dataclass
class CheckpointConfig:
    """How much work a kill may cost. `every_minutes` counts wall time; null switches one of the two off."""

    every_steps: int | None = MISSING
    every_minutes: float | None = MISSING


@dataclass
class PathsConfig:
    """Where things are read and written; never part of what a run is."""

    data_dir: str = MISSING
    log_dir: str = MISSING


@dataclass
class TrainConfig:
    """One run."""

    name: str = MISSING
    seed: int = MISSING
    rerun: bool = MISSING
    dry_run: bool = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    data: Any = None
    model: Any = None
    optimizer: Any = None
    schedule: Any = None


# The groups whose shape is always the same.
SECTIONS: dict[str, Any] = {
    "paths": PathsConfig,
    "checkpoint": CheckpointConfig,
    "logger": LoggerConfig,
    "trainer": TrainerConfig,
    "augment": AugmentConfig,
}

# The groups whose shape depends on what was chosen: which key says so, and the class for each choice.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "data": (
        "name",
        {"cifar10": DataConfig, "cifar100": DataConfig, "mnist": DataConfig, "digits": DataConfig}
        | {"image_folder": FolderConfig},
    ),
    "model": (
        "family",
        {
            "cifar": CifarNetConfig,
            "wide": WideNetConfig,
            "imagenet": ImageNetConfig,
            "dense": DenseConfig,
            "densenet": DenseNetConfig,
        },
    ),
    "optimizer": ("name", {"sgd": SGDConfig, "adamw": AdamWConfig}),
    "schedule": (
        "name",
        {
            "he2015": StepScheduleConfig,
            "step": StepScheduleConfig,
            "cosine": ScheduleConfig,
            "constant": ScheduleConfig,
        },
    ),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "data.normalization": ("per_pixel", "per_channel"),
    "data.last_batch": ("wrap", "short"),
    "model.shortcut": ("A", "B", "C"),
    "model.block": ("basic", "bottleneck"),
    "model.stem": ("small", "imagenet"),
    "schedule.warmup_shape": ("constant", "linear"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "mps"),
    "trainer.strategy": ("auto", "ddp"),
    "trainer.precision": ("auto", "32-true", "bf16-mixed", "16-mixed"),
    "trainer.gradient_clip_algorithm": ("norm", "value"),
    "trainer.bn_statistics": ("moving", "averaged"),
    "trainer.profiler": ("simple", "pytorch"),
}

POSITIVE = (
    "data.batch_size",
    "data.eval_batch_size",
    "data.images_per_class",
    "data.image_size",
    "data.memory_limit_gib",
    "data.num_workers",
    "model.width_factor",
    "model.groups",
    "model.width_per_group",
    "model.growth_rate",
    "model.num_init_features",
    "model.bn_size",
    "optimizer.lr",
    "optimizer.backbone_lr_factor",
    "optimizer.eps",
    "schedule.factor",
    "schedule.total_steps",
    "trainer.max_steps",
    "trainer.val_every_steps",
    "trainer.accumulate_grad_batches",
    "trainer.steps_per_replay",
    "trainer.gradient_clip_val",
    "trainer.num_threads",
    "logger.every_steps",
    "checkpoint.every_steps",
    "checkpoint.every_minutes",
)

NOT_NEGATIVE = (
    "seed",
    "data.val_size",
    "data.split_seed",
    "data.crop_padding",
    "data.val_fraction",
    "data.test_fraction",
    "augment.mixup",
    "augment.cutmix",
    "augment.color_jitter",
    "augment.random_erasing",
    "augment.label_smoothing",
    "model.dropout",
    "model.stochastic_depth",
    "optimizer.momentum",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.weight_decay",
    "schedule.warmup_steps",
    "schedule.warmup_factor",
)


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain dicts and lists, for files."""
    return asdict(config)


def steps_if_deep(depth: int, threshold: int, steps: int) -> int:
    """`steps` from depth `threshold` on, else 0: the warm-up of the paper's deep networks, for configs/schedule."""
    return steps if depth >= threshold else 0


def words_if(condition: bool, words: str) -> str:
    """`words` where the condition holds, else nothing: a part of a network's name, for configs/model."""
    return words if condition else ""


OmegaConf.register_new_resolver("steps_if_deep", steps_if_deep, replace=True)
OmegaConf.register_new_resolver("words_if", words_if, replace=True)


def known_keys() -> list[str]:
    """Every dotted key that some configuration has."""
    groups = [*SECTIONS.items()]
    groups += [(group, cls) for group, (_, classes) in VARIANTS.items() for cls in classes.values()]
    keys = {f"{group}.{f.name}" for group, cls in groups for f in fields(cls)}
    return sorted(keys | {f.name for f in fields(TrainConfig)} - {group for group, _ in groups})
