"""How a sweep is to be run: the keys of hydra/launcher=pool, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from depthlab.config.nearest import nearest
from depthlab.errors import InputError

ON_ERROR = ("continue", "stop")
MPS_MODES = ("auto", "on", "off")
AUTO = "auto"  # of jobs_per_device: as many on one GPU as pay
MOST_JOBS = 8  # that it tries


@dataclass(frozen=True)
class Settings:
    """See configs/hydra/launcher/pool.yaml."""

    jobs_per_device: int | str | None = None
    on_error: str = "continue"
    retries: int = 0
    mps: str = "auto"


def check_settings(jobs_per_device: Any, on_error: Any, retries: Any, mps: Any = "auto") -> Settings:
    """The settings, or an InputError that names the key, the value and what it may be."""
    if jobs_per_device not in (None, AUTO) and (not _is_count(jobs_per_device) or jobs_per_device < 1):
        raise InputError(f"hydra.launcher.jobs_per_device={jobs_per_device}: an integer >= 1, auto or null.")
    if on_error not in ON_ERROR:
        raise InputError(f"hydra.launcher.on_error={on_error}: no such choice. {nearest(str(on_error), ON_ERROR)}")
    if not _is_count(retries) or retries < 0:
        raise InputError(f"hydra.launcher.retries={retries}: a whole number from 0 on.")
    # YAML reads on and off as booleans.
    mode = {True: "on", False: "off"}.get(mps, mps) if isinstance(mps, bool) else mps
    if mode not in MPS_MODES:
        raise InputError(f"hydra.launcher.mps={mps}: no such choice. {nearest(str(mps), MPS_MODES)}")
    return Settings(jobs_per_device, on_error, retries, mode)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
