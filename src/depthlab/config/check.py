"""The checks that every configuration passes before anything starts.

A configuration is checked by the same function wherever it comes from: composed by Hydra, frozen for a sweep, or
read back from a run.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import PurePath
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from depthlab.config.identity import flatten
from depthlab.config.schema import (
    CHOICES,
    NOT_NEGATIVE,
    POSITIVE,
    SECTIONS,
    VARIANTS,
    FolderConfig,
    SGDConfig,
    TrainConfig,
    as_dict,
)
from depthlab.errors import InputError
from depthlab.models.network_checks import check_network


def nearest(name: str, valid: Sequence[str]) -> str:
    """A clause that points at the valid name closest to `name`, or lists them where none is close."""

    def closeness(candidate: str) -> tuple[float, int]:
        matcher = difflib.SequenceMatcher(None, name, candidate)
        return round(matcher.ratio(), 6), matcher.find_longest_match().size

    best = max(valid, key=closeness)
    return f"Did you mean {best}?" if closeness(best)[0] >= 0.5 else f"Valid: {', '.join(sorted(valid))}."


def check(tree: Any) -> TrainConfig:
    """The configuration as typed objects.

    Args:
        tree: a resolved configuration, plain dicts and lists.

    Raises:
        InputError: an unknown or missing key, a wrong type, an unknown choice or a value out of range;
            the message names the key, the value and the nearest valid one.
    """
    if not isinstance(tree, Mapping):
        raise InputError(f"configuration={tree!r}: a group of keys is expected here.")
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
    _check_data(config)
    _check_augment(config)
    if config.data.split_seed >= 2**32:
        raise InputError(f"data.split_seed={config.data.split_seed}: must be less than 2**32.")
    _check_names(config)
    _check_combinations(config)


def _check_names(config: TrainConfig) -> None:
    """A run's and a network's name become parts of a path and of tables, so they must be plain and true."""
    check_name("name", config.name)
    check_name("model.name", config.model.name)
    check_network(config.model)


def check_name(key: str, value: str) -> None:
    """Refuse what cannot be a part of a path."""
    if not value or value.startswith(".") or not all(c.isalnum() or c in "._-" for c in value):
        raise InputError(f"{key}={value!r}: use letters, digits, '.', '_' and '-' only.")


def _check_data(config: TrainConfig) -> None:
    data = config.data
    if data.fold is not None and data.num_folds is None:
        raise InputError(f"data.fold={data.fold}: a fold of how many? Give data.num_folds=5, say.")
    if data.num_folds is not None and data.fold is None:
        raise InputError(
            f"data.num_folds={data.num_folds}: which of them? Give data.fold=0, or -m 'data.fold=range(5)'."
        )
    if data.num_folds is not None and data.num_folds < 2:
        raise InputError(f"data.num_folds={data.num_folds}: at least 2.")
    if data.fold is not None and not 0 <= data.fold < data.num_folds:
        raise InputError(
            f"data.fold={data.fold}: no such fold; data.num_folds={data.num_folds} are counted from 0 to "
            f"{data.num_folds - 1}."
        )
    if data.classes is not None and len(set(data.classes)) < max(2, len(data.classes)):
        raise InputError(f"data.classes={data.classes}: give two or more classes, each once.")
    if isinstance(data, FolderConfig):
        _check_folder(data)


def _check_folder(data: FolderConfig) -> None:
    if PurePath(data.folder).name in ("", ".."):
        raise InputError(f"data.folder={data.folder}: a run is named by its folder's name; give it with its name.")
    if data.val_fraction + data.test_fraction >= 1:
        raise InputError(
            f"data.val_fraction={data.val_fraction} data.test_fraction={data.test_fraction}: "
            "they leave nothing to train on."
        )


def _check_augment(config: TrainConfig) -> None:
    augment = config.augment
    for key, value in (("color_jitter", augment.color_jitter), ("random_erasing", augment.random_erasing)):
        if value > 1:
            raise InputError(f"augment.{key}={value}: from 0 (off) to 1.")
    if augment.label_smoothing >= 1:
        raise InputError(f"augment.label_smoothing={augment.label_smoothing}: from 0 (off) to below 1.")
    for key, value in asdict(augment).items():
        if value and config.trainer.overfit_one_batch:
            raise InputError(
                f"augment.{key}={value} trainer.overfit_one_batch=true: the objective is to learn one batch as it is, "
                f"every image its own label. Set augment.{key}=0."
            )
    if config.data.batch_size == 1 and (augment.mixup or augment.cutmix):
        raise InputError("data.batch_size=1: mixup and cutmix mix images of one batch, and need two or more.")


def _check_combinations(config: TrainConfig) -> None:
    trainer, factor = config.trainer, config.optimizer.backbone_lr_factor
    if factor != 1 and config.model.freeze == "backbone":
        raise InputError(f"optimizer.backbone_lr_factor={factor}: model.freeze=backbone leaves it nothing to train.")
    for key in ("beta1", "beta2"):
        if getattr(config.optimizer, key, 0) >= 1:
            raise InputError(f"optimizer.{key}={getattr(config.optimizer, key)}: less than 1 is expected.")
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
