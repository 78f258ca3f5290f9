"""Exceptions that end training before its last step."""

from __future__ import annotations

import math
from collections.abc import Mapping


class Diverged(Exception):
    """The loss is no longer a finite number.

    Args:
        step: the first step at which it was not.
        last_finite: the last values that were, by name.
    """

    def __init__(self, step: int, last_finite: dict[str, float]) -> None:
        super().__init__(f"the loss was not finite at step {step}")
        self.step = step
        self.last_finite = last_finite


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written."""


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Those of `values` that are finite numbers."""
    return {key: value for key, value in values.items() if value is not None and math.isfinite(value)}
