"""How many jobs a sweep has, counted before any is listed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep, ValueType
from hydra.errors import HydraException

from depthlab.errors import InputError

MOST_JOBS = 10_000


def check_sweep(overrides: Sequence[Override], params: Mapping[str, Any]) -> dict[str, Override]:
    """Refuse a sweep without jobs and one with too many.

    Args:
        overrides: of the command line.
        params: hydra.sweeper.params, as an experiment file or the command line sets them.

    Returns:
        What the jobs are made of, by key: the command line goes before the parameters.

    Raises:
        InputError: names the key and the number of jobs.
    """
    parts = sweep_parts(overrides, params)
    number = 1
    for override in parts.values():
        number *= _count(override)
        if number > MOST_JOBS:
            raise InputError(f"{override.input_line}: {number:,} jobs. A sweep takes at most {MOST_JOBS:,}.")
    return parts


def sweep_parts(overrides: Sequence[Override], params: Mapping[str, Any]) -> dict[str, Override]:
    """What is typed and what an experiment's file sweeps over, by key: the command line goes before the file.

    Raises:
        InputError: a parameter of the file cannot be swept over.
    """
    parts = {key: _parse(key, value) for key, value in params.items()}
    return parts | {override.get_key_element(): override for override in overrides}


def _parse(key: str, value: Any) -> Override:
    typed = f"hydra.sweeper.params.{key}={'' if value is None else value}"
    if value is None or value == "":
        raise InputError(f"{typed}: a sweep needs values, such as 1,2,3 or range(1,4).")
    if key.lstrip("+~").startswith("hydra"):
        raise InputError(f"{typed}: a sweep cannot change keys of Hydra.")
    try:
        override: Override = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException as error:
        raise InputError(f"{typed}: not values as Hydra reads them ({str(error).splitlines()[0]}).") from None
    return override


def _count(override: Override) -> int:
    """The number of values of one key."""
    if not override.is_sweep_override() or override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        return 1  # of glob, the options of a group
    sweep, typed = override.value(), override.input_line
    if isinstance(sweep, RangeSweep):
        number = _length(sweep, str(typed))
    elif isinstance(sweep, ChoiceSweep):
        number = len(sweep.list)
    else:
        raise InputError(f"{typed}: a sweep needs single values, such as 1,2,3 or range(1,4).")
    if number == 0:
        raise InputError(f"{typed}: no values. range(START, STOP) ends before STOP; give START < STOP.")
    return number


def _length(sweep: RangeSweep, typed: str) -> int:
    start, stop, step = sweep.start or 0, sweep.stop or 0, sweep.step
    if not step or not math.isfinite(start) or not math.isfinite(stop) or not math.isfinite(step):
        raise InputError(f"{typed}: a range needs finite numbers and a step other than 0.")
    return max(0, math.ceil((stop - start) / step))
