"""What a record file may hold: types and ranges, checked before anything is computed from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from depthlab.errors import InputError

VERSION = 1
STATUSES = ("running", "finished", "failed", "diverged")

# The keys that reports and other people's scripts rely on, with their types.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "status": str,
    "name": str,
    "seed": int,
    "command": str,
    "config": dict,
    "model": dict,
    "data": dict,
    "metrics": dict,
    "steps": int,
}
# Of the configuration in a record, where they are there.
SECTIONS = ("model", "data", "augment", "optimizer", "schedule", "trainer", "paths")
MOST_STEPS = 10**12
MOST_SECONDS = 10**11  # three thousand years; a timedelta takes no more than a thousand times that
MOST = 2**63
MOST_METRIC = 1e100  # squares of it are still finite
DEEPEST = 64  # groups inside groups
MOST_LAYERS = 1_000_000
Checks = Mapping[str, Callable[[Any], bool]]


def is_number(value: Any, most: float = MOST) -> bool:
    """Whether `value` is a number from 0 to `most`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and is_number(value)


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and is_number(value, MOST_STEPS)


def _is_duration(value: Any) -> bool:
    return is_number(value, MOST_SECONDS)


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_count(item) for item in value)


def _are_counted(value: Any) -> bool:
    return isinstance(value, dict) and _are_counts(list(value.values()))


def _is_layers(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_LAYERS


def _is_group(**checks: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is a group of keys of which these are null, missing, or pass their checks."""

    def is_fit(value: Any) -> bool:
        return isinstance(value, dict) and all(
            value.get(key) is None or is_its_kind(value[key]) for key, is_its_kind in checks.items()
        )

    return is_fit


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(item is None or _is_metric(item) for item in value.values())


def _is_metric(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) < (MOST_METRIC if isinstance(value, float) else MOST)


def _is_task(value: Any) -> bool:
    """Name, primary metric, and for each metric texts and numbers; see `depthlab.records.metrics`."""
    if not isinstance(value, dict) or not isinstance(value.get("metrics"), dict):
        return False
    metrics = value["metrics"]
    if not isinstance(value.get("name"), str) or value.get("primary") not in list(metrics):
        return False
    return all(isinstance(metric, dict) and _is_metric_info(metric) for metric in metrics.values())


def _is_metric_info(metric: dict[str, Any]) -> bool:
    texts = [metric.get(key, "") for key in ("title", "unit", "better")]
    numbers = [metric.get(key) for key in ("max", "chance")]
    return all(isinstance(text, str) for text in texts) and all(x is None or _is_metric(x) for x in numbers)


# What may be missing or null and, where it is there, passes the check.
ENVIRONMENT: Checks = {
    "device": _is(str),
    "num_threads": _is_count,
    "compiled": _is(bool),
    "captured": _is(bool),
    "versions": _are_texts,
    "git": _is(dict),
    "machine": _is(dict),
    "code": _is(dict),
    "started_at": _is(str),
    "wall_seconds": _is_duration,
}
SEGMENT: Checks = {
    **ENVIRONMENT,
    "from_step": _is_step,
    "to_step": _is_step,
    "training_seconds": _is_duration,
    "warm_up_steps": _is_step,
    "warm_up_seconds": _is_duration,
}
COUNTED = ("from_step", "to_step", "training_seconds", "wall_seconds", "warm_up_steps", "warm_up_seconds")
OPTIONAL: Checks = {
    **ENVIRONMENT,
    "run": _is(str),
    "recipe": _is(str),
    "weights": _is(dict),
    "images_per_second": is_number,
    "peak_memory_mib": is_number,
    "precision": _is(str),
    "num_processes": _is_count,
    "finished_at": _is(str),
    "failure": _is_group(reason=_is(str)),
    "divergence": _is_group(step=_is_step),
    "task": _is_task,
    "stopped_early": _is_group(step=_is_step, reason=_is(str)),
    "metrics_ema": _are_metrics,
    "weights_measured": _is(str),
    "weights_sha256": _is(str),
    "extensions": _are_texts,
    "extended_from": _is(dict),
    "published": _is_group(max_points=_is_count, points_before=_are_counted),
}
MODEL: Checks = {
    "name": _is(str),
    "depth": _is_layers,
    "residual": _is(bool),
    "num_params": _is_count,
    "num_macs": _is_count,
}
DATA: Checks = {
    "name": _is(str),
    "folder": _is(str),
    "num_train": _is_count,
    "num_val": _is_count,
    "num_test": _is_count,
    "num_classes": _is_count,
    "classes": _are_names,
    "image_shape": _are_counts,
    "fingerprint": _is(str),
    "test_curve": _is(bool),
    "streamed": _is(bool),
}


def check_record(record: Any, path: Path) -> None:
    """Raise InputError, with `path` and the key, where `record` is not one that this version reads."""
    if not isinstance(record, dict) or type(record.get("version")) is not int:
        raise InputError(f"{path} is not a record of a run: it has no version number.")
    if record["version"] > VERSION:
        raise InputError(
            f"{path} has version {record['version']}; this depthlab reads up to {VERSION}. Use a newer depthlab."
        )
    _check_plain(record, path)
    for key, kind in REQUIRED.items():
        if not isinstance(record.get(key), kind) or isinstance(record.get(key), bool):
            raise InputError(f"{path} is not a whole record: {key!r} is missing or of the wrong type.")
    for name, value in record["metrics"].items():
        if value is not None and not _is_metric(value):
            raise InputError(
                f"{path} is not a whole record: the metric {name!r} is {_short(value)}, which is no number."
            )
    for section in SECTIONS:
        if not isinstance(record["config"].get(section, {}), dict):
            raise InputError(f"{path} is not a whole record: {section!r} of its configuration is of the wrong type.")
    if record["status"] not in STATUSES:
        raise InputError(f"{path}: status {_short(record['status'])} is none of {', '.join(STATUSES)}.")
    if not _is_step(record["steps"]) or abs(record["seed"]) > MOST:
        raise InputError(f"{path} is not a whole record: 'steps' or 'seed' is out of range.")
    _check_values(record, OPTIONAL, "", path)
    _check_values(record["model"], MODEL, "model.", path)
    _check_values(record["data"], DATA, "data.", path)
    _check_segments(record.get("stretches", []), path)


def _check_plain(record: Any, path: Path) -> None:
    """Refuse what no run writes anywhere: numbers that are not finite or too large, groups in groups without end."""
    pending: list[tuple[str, Any, int]] = [("", record, 0)]
    while pending:
        name, value, depth = pending.pop()
        if depth > DEEPEST:
            raise InputError(f"{path} is not a whole record: more than {DEEPEST} groups lie inside each other.")
        if isinstance(value, dict):
            pending += [(f"{name}.{key}" if name else key, item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list):
            pending += [(name, item, depth + 1) for item in value]
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{path} is not a whole record: {name} is {'NaN' if math.isnan(value) else 'infinite'}.")
        elif isinstance(value, int) and abs(value) > MOST:
            raise InputError(f"{path} is not a whole record: {name} is too large a number.")


def _check_segments(segments: Any, path: Path) -> None:
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise InputError(f"{path} is not a whole record: 'stretches' is of the wrong type.")
    for segment in segments:
        if missing := next((key for key in COUNTED if segment.get(key, 0) is None), None):
            raise InputError(f"{path} is not a whole record: stretches.{missing} is null.")
        _check_values(segment, SEGMENT, "stretches.", path)


def _check_values(
    values: Mapping[str, Any], checks: Mapping[str, Callable[[Any], bool]], where: str, path: Path
) -> None:
    for key, is_fit in checks.items():
        value = values.get(key)
        if value is not None and not is_fit(value):
            raise InputError(f"{path} is not a whole record: {where}{key} is of the wrong type ({_short(value)}).")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a huge integer"
    return text if len(text) <= 40 else f"{text[:37]}..."
