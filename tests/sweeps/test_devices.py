"""Leases: who gets which device, and with how many threads."""

import pytest

from depthlab.errors import InputError
from depthlab.sweeps.devices import Devices, Lease, find_devices, gpu_names

from .stub_sweep import hardware


def test_the_emptiest_device_is_leased_first():
    devices = Devices("gpu", ["0", "1"], places=2, num_threads=1)
    leased = [devices.lease(1) for _ in range(5)]
    assert [lease and lease.devices for lease in leased] == [("0",), ("1",), ("0",), ("1",), None]


def test_a_released_device_is_leased_again():
    devices = Devices("gpu", ["0", "1"], places=1, num_threads=1)
    first, _ = devices.lease(1), devices.lease(1)
    devices.release(first)
    assert devices.lease(1) == first


def test_a_job_over_two_devices_gets_two_different_ones_or_none():
    devices = Devices("gpu", ["0", "1"], places=3, num_threads=1)
    assert devices.lease(2).devices == ("0", "1")
    devices.lease(1)
    assert devices.lease(2).devices == ("1", "0")
    assert devices.lease(2) is None


def test_devices_are_kept_for_a_wide_job_unless_another_leaves_enough_at_once():
    devices = Devices("gpu", ["0", "1", "2"], places=1, num_threads=1)
    devices.lease(1)
    assert not devices.will_free(2)
    devices.lease(2)
    assert devices.will_free(2)


def test_more_processes_than_places_on_the_cpu_take_all_places():
    assert len(Devices("cpu", ["0", "1"], places=1, num_threads=1).lease(4).devices) == 2


@pytest.mark.parametrize(
    ("cores", "jobs_per_device", "num_processes", "places", "threads"),
    [(2, None, 8, 2, 1), (16, None, 3, 3, 5), (16, 4, 8, 4, 4), (2, 4, 8, 4, 1), (2, None, 1, 1, 2)],
)
def test_cores_are_shared_out_among_the_jobs_on_the_cpu(cores, jobs_per_device, num_processes, places, threads):
    devices = find_devices(hardware(cores=cores), {"cpu": num_processes}, jobs_per_device, {})["cpu"]
    assert (devices.num_places, devices.num_threads) == (places, threads)


def test_gpus_hold_one_job_each_unless_asked():
    assert find_devices(hardware(gpus=4), {"gpu": 9}, None, {})["gpu"].num_places == 4
    assert find_devices(hardware(gpus=4), {"gpu": 9}, 2, {})["gpu"].num_places == 8


def test_gpus_are_named_as_the_environment_names_them():
    assert gpu_names(2, {}) == ["0", "1"]
    assert gpu_names(2, {"CUDA_VISIBLE_DEVICES": "3, GPU-12ab,-1"}) == ["3", "GPU-12ab"]
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=1,1"):
        gpu_names(2, {"CUDA_VISIBLE_DEVICES": "1,1"})


def test_a_job_sees_its_own_devices_and_threads_only():
    assert Lease("gpu", ("2", "5"), 3).environment() == {
        "CUDA_VISIBLE_DEVICES": "2,5",
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
    }
    assert Lease("cpu", ("0",), 1).environment()["CUDA_VISIBLE_DEVICES"] == ""
