"""Leases: which device a job gets, and who may have the next one that is free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from depthlab.config.hardware import Hardware
from depthlab.errors import InputError
from depthlab.sweeps.device_locks import DeviceLocks, runtime_folder
from depthlab.sweeps.settings import AUTO, MOST_JOBS

COMPILE_THREADS = "TORCHINDUCTOR_COMPILE_THREADS"  # Inductor would start up to 32 processes for each job


@dataclass(frozen=True)
class Lease:
    """A place on each of `devices`, and the CPU threads that go with it, for every process of one job."""

    accelerator: str
    devices: tuple[str, ...]
    num_threads: int

    def environment(self) -> dict[str, str]:
        """The variables that keep a job within its lease."""
        threads = str(self.num_threads)
        # A job on the CPU sees no GPU: merely asking one for its name would take memory there.
        visible = {"gpu": ",".join(self.devices), "cpu": ""}.get(self.accelerator)
        shown = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", COMPILE_THREADS), threads)
        return {**counts, **shown}

    def __str__(self) -> str:
        return f"{self.accelerator} {','.join(self.devices)}"


class Devices:
    """The devices of one kind, each with the same number of places."""

    def __init__(
        self, accelerator: str, names: list[str], places: int, num_threads: int, locks: DeviceLocks | None = None
    ) -> None:
        """`places` jobs share a device; each process gets `num_threads`; `locks` keeps other launchers away."""
        self._accelerator = accelerator
        self.places = places
        self.num_threads = num_threads
        self._locks = locks
        self._taken = dict.fromkeys(names, 0)
        self._leases: list[Lease] = []

    @property
    def num_places(self) -> int:
        """How many jobs of one process can run at a time."""
        return len(self._taken) * self.places

    def __len__(self) -> int:
        return len(self._taken)

    def lease(self, num_devices: int) -> Lease | None:
        """A place on each of `num_devices` different devices, the emptiest first; None if that many are not free."""
        num_devices = self._at_most_all(num_devices)
        free = sorted((name for name in self._taken if self._taken[name] < self.places), key=self._taken.__getitem__)
        lease = Lease(self._accelerator, tuple(self._ours(free, num_devices)), self.num_threads)
        self._leases.append(lease)
        for name in lease.devices:
            self._taken[name] += 1
        if len(lease.devices) < num_devices:
            self.release(lease)
            return None
        return lease

    def release(self, lease: Lease) -> None:
        """Give the places of `lease` back."""
        self._leases.remove(lease)
        for name in lease.devices:
            self._taken[name] -= 1
            if self._locks and not self._taken[name]:
                self._locks.give_back(name)

    def _ours(self, free: list[str], num_devices: int) -> list[str]:
        """The first `num_devices` of `free` that no other launcher holds, held by this one now."""
        ours: list[str] = []
        for name in free:
            if len(ours) < num_devices and (self._locks is None or self._taken[name] or self._locks.take(name)):
                ours.append(name)
        return ours

    @property
    def are_idle(self) -> bool:
        """Whether no job of this launcher is on any of them."""
        return not self._leases

    def will_free(self, num_devices: int) -> bool:
        """Whether a job that runs now will, when it ends, leave `num_devices` free at once."""
        num_devices = self._at_most_all(num_devices)
        return any(len(lease.devices) >= num_devices for lease in self._leases)

    def _at_most_all(self, num_devices: int) -> int:
        # Several processes on fewer cores than that are slow but right; GPUs were counted when the job was checked.
        return min(num_devices, len(self._taken))


def find_devices(
    hardware: Hardware,
    wanted: Mapping[str, int],
    jobs_per_device: int | str | None,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, Devices]:
    """The devices that the jobs of a sweep share, by accelerator.

    Args:
        hardware: what there is.
        wanted: for each accelerator, how many processes all jobs together have.
        jobs_per_device: jobs at a time on one GPU or on the CPU; None for one a GPU, and one a core on the CPU;
            "auto" for one a GPU at first, with the CPU threads of as many as may follow.
        environment: its CUDA_VISIBLE_DEVICES, where set, names the GPUs that may be used.
    """
    # A core that has no job of its own is better used as a second thread of another's.
    jobs = jobs_per_device if isinstance(jobs_per_device, int) else None
    on_cpu = min(jobs or hardware.cpu_cores, wanted.get("cpu", 0))
    names = {
        "gpu": gpu_names(len(hardware.gpus), environment),
        "cpu": [str(idx) for idx in range(on_cpu)],
        "mps": ["0"],
    }
    places = {"gpu": jobs or 1, "cpu": 1, "mps": jobs or 1}
    at_most = {**places, "gpu": MOST_JOBS} if jobs_per_device == AUTO else places
    total = sum(len(names[kind]) * at_most[kind] for kind in wanted)
    num_threads = max(1, hardware.cpu_cores // max(1, total))
    uuids = dict(zip(names["gpu"], hardware.gpu_uuids, strict=False))  # none are known of simulated ones
    return {
        # Cores are shared by all processes in any case; a GPU is one launcher's.
        kind: Devices(
            kind,
            names[kind],
            places[kind],
            num_threads,
            None if kind == "cpu" else DeviceLocks(runtime_folder(), uuids),
        )
        for kind in wanted
    }


def gpu_names(count: int, environment: Mapping[str, str]) -> list[str]:
    """What to write into CUDA_VISIBLE_DEVICES for each of `count` visible GPUs: a number or a UUID."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(idx) for idx in range(count)]
    # CUDA stops at the first name that is no device, so the visible ones are the first `count`.
    names = [name.strip() for name in visible.split(",")][:count]
    if len(set(names)) != len(names):
        raise InputError(f"CUDA_VISIBLE_DEVICES={visible}: a device is named twice.")
    return names
