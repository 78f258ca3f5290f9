"""Several jobs on one GPU: how many pay, whether MPS serves them, and what to do when memory runs out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from depthlab.records.progress_file import read_progress
from depthlab.sweeps.devices import Devices, Lease
from depthlab.sweeps.job import Entry, State
from depthlab.sweeps.mps import DEFAULT_FOLDER, MpsDaemons, compute_mode, uuid_of
from depthlab.sweeps.settings import AUTO, MOST_JOBS, Settings

WINDOW_SECONDS = 30.0  # over which a number of jobs is measured
LEAST_GAIN = 0.03  # in runs an hour; less is not worth the memory that one more job takes
EXCLUSIVE = "Exclusive_Process"


def next_number(measured: Mapping[int, float], most: int) -> tuple[int, bool]:
    """How many jobs to run on a GPU next, and whether that is the answer.

    Args:
        measured: runs an hour by number of jobs, for 1, 2, ... as far as they were tried.
        most: jobs at a time.
    """
    tried = max(measured, default=0)
    if tried and (tried == most or not _gains(measured, tried)):
        return tried if _gains(measured, tried) else tried - 1, True
    return tried + 1, False


def _gains(measured: Mapping[int, float], number: int) -> bool:
    return number == 1 or measured[number] > (1 + LEAST_GAIN) * measured[number - 1]


class Tuner:
    """Finds the number of jobs on a GPU with the most runs an hour, while the sweep goes on.

    Args:
        most: jobs at a time, at most.
        window_seconds: over which a number is measured, once every job has taken its first steps.
    """

    def __init__(self, most: int = MOST_JOBS, window_seconds: float = WINDOW_SECONDS) -> None:
        self.most = most
        self.window_seconds = window_seconds
        self.measured: dict[int, float] = {}
        self.number, self.is_settled = 1, False
        self._since = 0.0
        self._before: dict[str, float] = {}

    def observe(self, now: float, done: Mapping[str, float], num_devices: int) -> bool:
        """Take note of the part of its steps that each running job has done; whether the number has changed.

        Args:
            now: seconds of a clock.
            done: by job, from 0 to 1. A job that has taken no step yet is 0.
            num_devices: that have `number` jobs each, if `done` is complete.
        """
        full = len(done) == self.number * num_devices and all(part > 0 for part in done.values())
        if self.is_settled or not full:
            self._before = {}
            return False
        if done.keys() != self._before.keys():
            self._before, self._since = dict(done), now
            return False
        if now - self._since < self.window_seconds:
            return False
        runs = sum(part - self._before[job] for job, part in done.items())
        self.measured[self.number] = 3600 * runs / (now - self._since)
        self._before = {}
        before = self.number
        self.number, self.is_settled = next_number(self.measured, self.most)
        return self.number != before or self.is_settled

    def settle(self, number: int) -> None:
        """Stay with a number that something else asks for."""
        self.number, self.is_settled = number, True

    def describe(self) -> str:
        """What was measured, for a line."""
        rates = ", ".join(f"{number}: {rate:.3g}" for number, rate in self.measured.items())
        return f"runs an hour by jobs on a GPU: {rates}"


def is_out_of_memory(reason: str, tail: Sequence[str]) -> bool:
    """Whether a job failed for want of the device's memory, as its record or its last lines say."""
    return any("OutOfMemoryError" in line or "CUDA out of memory" in line for line in (reason, *tail))


class Sharing:
    """What the queue asks about GPUs with several jobs each.

    Args:
        settings: jobs at a time, and whether to use MPS.
        gpus: the GPUs of the sweep; None where it uses none.
        uuids: what a GPU is called everywhere, by what it is called here.
        say: is told what was found or done.
        default_folder: where an MPS daemon of somebody else would be.
    """

    def __init__(
        self,
        settings: Settings,
        gpus: Devices | None,
        uuids: Mapping[str, str],
        say: Callable[[str], None],
        default_folder: Path = DEFAULT_FOLDER,
    ) -> None:
        self._gpus = gpus
        self._uuids = uuids
        self._say = say
        shares = settings.jobs_per_device not in (None, 1)
        self._mps = MpsDaemons(settings.mps if shares else "off", uuids, say, default_folder)
        self._shares = gpus is not None and shares
        self._tuner = Tuner(MOST_JOBS, WINDOW_SECONDS) if self._shares and settings.jobs_per_device == AUTO else None
        self._modes: dict[str, str] = {}

    def environment(self, lease: Lease) -> dict[str, str]:
        """The variables of a job on `lease`, beside those of the lease itself.

        Raises:
            InputError: hydra.launcher.mps=on, and MPS cannot be used.
        """
        if not self._shares or lease.accelerator != "gpu" or len(lease.devices) > 1:
            return {}
        (device,) = lease.devices
        found = self._mps.environment(device)
        if device not in self._modes:
            self._modes[device] = compute_mode(uuid_of(device, self._uuids) or device)
            if self._modes[device] == EXCLUSIVE and not self._mps.serves(device):
                self._limit(1, f"GPU {device} is in exclusive compute mode: one job at a time")
        return found

    def observe(self, entries: Sequence[Entry]) -> None:
        """Measure how fast the jobs on the GPUs get on, and try one more on each where that pays."""
        if self._tuner is None or self._gpus is None:
            return
        running = [entry for entry in entries if entry.state is State.RUNNING and entry.job.accelerator == "gpu"]
        if self._tuner.observe(
            time.monotonic(), {each.job.label: _part_done(each) for each in running}, len(self._gpus)
        ):
            self._gpus.places = self._tuner.number
            if self._tuner.is_settled:
                self._say(f"jobs_per_device=auto: {self._tuner.number} ({self._tuner.describe()})")

    def makes_room(self, entry: Entry) -> bool:
        """Whether a job that failed is to be queued again with fewer beside it: the GPU's memory was too small."""
        if not self._shares or self._gpus is None or entry.job.accelerator != "gpu" or self._gpus.places == 1:
            return False
        if not is_out_of_memory(entry.reason, entry.tail):
            return False
        fewer = self._gpus.places - 1
        self._limit(fewer, f"{entry.job.label}: out of device memory; queued again, {fewer} at a time on a GPU now")
        return True

    def close(self) -> None:
        """End what was started for the sweep."""
        self._mps.close()

    def _limit(self, places: int, why: str) -> None:
        assert self._gpus is not None
        if places < self._gpus.places or self._tuner is not None:
            self._say(why)
        self._gpus.places = min(places, self._gpus.places)
        if self._tuner is not None:
            self._tuner.settle(self._gpus.places)


def _part_done(entry: Entry) -> float:
    progress = read_progress(entry.job.directory, entry.started_at)
    return 0.0 if progress is None else progress.step / max(1, progress.max_steps)
