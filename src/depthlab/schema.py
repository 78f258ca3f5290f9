"""The typed shape of a configuration, and the checks every configuration passes before anything starts.

The YAML files in configs/ hold the values, the classes here hold names and types. A configuration is checked
by the same function wherever it comes from: composed by Hydra, frozen for a sweep, or read back from a run.
Nothing in a configuration names Python code: a family, a reader or an optimiser is looked up by its short name.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from depthlab.errors import InputError
from depthlab.records.identity import flatten


@dataclass
class CifarNetConfig:
    """A plain or residual network of section 4.2 of the paper."""

    family: str = MISSING
    name: str = MISSING
    depth: int = MISSING
    residual: bool = MISSING
    shortcut: str = MISSING


@dataclass
class DataConfig:
    """Which images, how they are split, and what happens to them on the way into the network."""

    name: str = MISSING
    val_size: int = MISSING
    split_seed: int = MISSING
    batch_size: int = MISSING
    eval_batch_size: int = MISSING
    crop_padding: int = MISSING
    flip: bool = MISSING
    normalization: str = MISSING
    last_batch: str = MISSING
    test_curve: bool = MISSING


@dataclass
class SGDConfig:
    """Stochastic gradient descent with momentum."""

    name: str = MISSING
    lr: float = MISSING
    momentum: float = MISSING
    nesterov: bool = MISSING
    weight_decay: float = MISSING
    decay_norm_and_bias: bool = MISSING


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
    data: DataConfig = field(default_factory=DataConfig)
    model: Any = None
    optimizer: Any = None
    schedule: Any = None


# The groups whose shape is always the same.
SECTIONS: dict[str, Any] = {
    "paths": PathsConfig,
    "checkpoint": CheckpointConfig,
    "logger": LoggerConfig,
    "trainer": TrainerConfig,
    "data": DataConfig,
}

# The groups whose shape depends on what was chosen: which key says so, and the class for each choice.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "model": ("family", {"cifar": CifarNetConfig}),
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
    "data.name": ("cifar10", "mnist", "digits"),
    "data.normalization": ("per_pixel", "per_channel"),
    "data.last_batch": ("wrap", "short"),
    "model.shortcut": ("A", "B", "C"),
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
    "optimizer.lr",
    "optimizer.eps",
    "schedule.factor",
    "schedule.total_steps",
    "trainer.max_steps",
    "trainer.val_every_steps",
    "trainer.accumulate_grad_batches",
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
    "optimizer.momentum",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.weight_decay",
    "schedule.warmup_steps",
    "schedule.warmup_factor",
)


def nearest(name: str, valid: Sequence[str]) -> str:
    """A clause that points at the valid name closest to `name`, or lists them where none is close."""

    def closeness(candidate: str) -> tuple[float, int]:
        matcher = difflib.SequenceMatcher(None, name, candidate)
        return round(matcher.ratio(), 6), matcher.find_longest_match().size

    best = max(valid, key=closeness)
    return f"Did you mean {best}?" if closeness(best)[0] >= 0.5 else f"Valid: {', '.join(sorted(valid))}."


def check(tree: Mapping[str, Any]) -> TrainConfig:
    """The configuration as typed objects.

    Args:
        tree: a resolved configuration, plain dicts and lists.

    Raises:
        InputError: an unknown or missing key, a wrong type, an unknown choice or a value out of range;
            the message names the key, the value and the nearest valid one.
    """
    tree = dict(tree)
    _check_plain(tree)
    parts: dict[str, Any] = {
        group: _typed(_variant(group, tree.get(group)), tree.get(group), group) for group in VARIANTS
    }
    config: TrainConfig = _typed(TrainConfig, {key: value for key, value in tree.items() if key not in VARIANTS}, "")
    for group, part in parts.items():
        setattr(config, group, part)
    check_values(config)
    return config


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain dicts and lists, for files."""
    return asdict(config)


def _variant(group: str, node: Any) -> Any:
    key, classes = VARIANTS[group]
    if not isinstance(node, Mapping):
        raise InputError(f"{group} is missing from the configuration.")
    chosen = str(node.get(key))
    if chosen not in classes:
        raise InputError(f"{group}.{key}={chosen}: no such {group}. {nearest(chosen, tuple(classes))}")
    return classes[chosen]


def _check_plain(tree: Mapping[str, Any]) -> None:
    """Refuse what OmegaConf would look up elsewhere, and numbers that nothing here can hold."""
    for key, value in flatten(tree).items():
        if isinstance(value, str) and "${" in value:
            raise InputError(f"{key}={value}: a reference is not resolved, or not allowed here.")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise InputError(f"{key}={str(value)[:20]}...: the number is too large.")


def _typed(cls: Any, node: Any, group: str) -> Any:
    """`node` as an instance of `cls`; unknown keys, missing keys and wrong types are refused by name."""
    prefix = f"{group}." if group else ""
    _check_keys(cls, node, prefix)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), dict(node))
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise InputError(f"{prefix}{missing[0]} is missing from the configuration.")
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = f"{prefix}{error.full_key or error.key}"
        reason = (error.msg or str(error)).splitlines()[0]
        raise InputError(f"{key}: {reason}.") from None


def _check_keys(cls: Any, node: Any, prefix: str) -> None:
    if not isinstance(node, Mapping):
        raise InputError(f"{prefix.rstrip('.') or 'configuration'}={node!r}: a group of keys is expected here.")
    known = [f.name for f in fields(cls)]
    for key, value in node.items():
        if key not in known:
            raise InputError(f"{prefix}{key}={value}: no such key. {nearest(str(key), known)}")
        if cls is TrainConfig and key in SECTIONS:
            _check_keys(SECTIONS[key], value, f"{key}.")


def check_values(config: TrainConfig) -> None:
    """Refuse values out of range, unknown choices and keys that contradict each other, by name."""
    flat = flatten(as_dict(config))
    for key, choices in CHOICES.items():
        value = flat.get(key)
        if value is not None and value not in choices:
            raise InputError(f"{key}={value}: no such choice. {nearest(str(value), choices)}")
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{key}={value}: must be a finite number.")
    for key in POSITIVE:
        if flat.get(key) is not None and not flat[key] > 0:
            raise InputError(f"{key}={flat[key]}: must be greater than 0.")
    for key in NOT_NEGATIVE:
        if flat.get(key) is not None and not flat[key] >= 0:
            raise InputError(f"{key}={flat[key]}: must not be negative.")
    if config.data.split_seed >= 2**32:
        raise InputError(f"data.split_seed={config.data.split_seed}: must be less than 2**32.")
    _check_names(config)
    _check_combinations(config)


def _check_names(config: TrainConfig) -> None:
    """A run's and a network's name become parts of a path and of tables, so they must be plain and true."""
    for key, value in (("name", config.name), ("model.name", config.model.name)):
        if not value or value.startswith(".") or not all(c.isalnum() or c in "._-" for c in value):
            raise InputError(f"{key}={value!r}: use letters, digits, '.', '_' and '-' only.")
    if isinstance(config.model, CifarNetConfig):
        model = config.model
        if model.depth < 8 or (model.depth - 2) % 6:
            below = max(8, model.depth - (model.depth - 2) % 6)
            raise InputError(
                f"model.depth={model.depth}: the depth must be 6n+2 with n >= 1 (8, 14, 20, ...); "
                f"the nearest are {below} and {below + 6}."
            )
        kind = "resnet" if model.residual else "plain"
        if model.name.startswith(("resnet", "plain")) and model.name != f"{kind}{model.depth}":
            raise InputError(
                f"model.name={model.name}: this network is {kind}{model.depth}; type model={kind}{model.depth} "
                "or give it a name of your own with model.name=..."
            )


def _check_combinations(config: TrainConfig) -> None:
    model, trainer = config.model, config.trainer
    if isinstance(model, CifarNetConfig) and not model.residual and model.shortcut != "A":
        raise InputError(f"model.shortcut={model.shortcut}: {model.name} is plain and has no shortcuts.")
    if isinstance(config.optimizer, SGDConfig) and config.optimizer.nesterov and not config.optimizer.momentum:
        raise InputError("optimizer.nesterov=true: Nesterov's form needs optimizer.momentum above 0.")
    if trainer.devices == 0 or trainer.devices < -1:
        raise InputError(f"trainer.devices={trainer.devices}: a number of processes, or -1 for every GPU.")
    if trainer.devices > 1 and config.data.batch_size % trainer.devices:
        raise InputError(
            f"data.batch_size={config.data.batch_size}: {trainer.devices} processes cannot have equal parts of it, "
            "and the mean of their gradients would not be that of the batch. Choose a multiple."
        )
    if trainer.strategy == "ddp" and config.data.last_batch == "short":
        raise InputError("data.last_batch=short: several processes need full batches. Use data.last_batch=wrap.")
    if trainer.strategy == "auto" and trainer.devices != 1:
        raise InputError(
            f"trainer.devices={trainer.devices}: several processes need trainer=ddp (GPUs) or trainer=ddp_cpu."
        )


def steps_if_deep(depth: int, threshold: int, steps: int) -> int:
    """`steps` from depth `threshold` on, else 0: the warm-up of the paper's deep networks, for configs/schedule."""
    return steps if depth >= threshold else 0


OmegaConf.register_new_resolver("steps_if_deep", steps_if_deep, replace=True)


def known_keys() -> list[str]:
    """Every dotted key that some configuration has."""
    groups = [*SECTIONS.items()]
    groups += [(group, cls) for group, (_, classes) in VARIANTS.items() for cls in classes.values()]
    keys = {f"{group}.{f.name}" for group, cls in groups for f in fields(cls)}
    return sorted(keys | {f.name for f in fields(TrainConfig)} - {group for group, _ in groups})
