"""Leases: who gets which device, and with how many threads."""

import pytest

from depthlab.errors import InputError
from depthlab.sweeps.device_locks import DeviceLocks
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


def test_a_gpu_has_one_job_at_first_where_the_number_is_to_be_found_and_threads_for_the_most():
    devices = find_devices(hardware(gpus=2, cores=32), {"gpu": 40}, "auto", {})["gpu"]
    assert (devices.num_places, devices.num_threads) == (2, 2)
    assert find_devices(hardware(cores=4), {"cpu": 9}, "auto", {})["cpu"].num_places == 4


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
        "TORCHINDUCTOR_COMPILE_THREADS": "3",
    }
    assert Lease("cpu", ("0",), 1).environment()["CUDA_VISIBLE_DEVICES"] == ""


def test_a_device_is_one_launchers_until_its_last_job_ends(tmp_path):
    locks = [DeviceLocks(tmp_path, {}) for _ in range(2)]
    ours, theirs = (Devices("gpu", ["0", "1"], places=2, num_threads=1, locks=each) for each in locks)
    first, second, third = (ours.lease(1) for _ in range(3))
    assert [lease.devices for lease in (first, second, third)] == [("0",), ("1",), ("0",)]
    assert theirs.lease(1) is None
    ours.release(first)
    assert theirs.lease(1) is None
    ours.release(third)
    assert theirs.lease(1).devices == ("0",)
    assert ours.lease(1).devices == ("1",)


def test_a_lease_of_several_devices_that_fails_holds_none_of_them(tmp_path):
    ours, theirs, others = (
        Devices("gpu", ["0", "1"], places=1, num_threads=1, locks=DeviceLocks(tmp_path, {})) for _ in range(3)
    )
    theirs.lease(1)
    assert ours.lease(2) is None
    assert others.lease(1).devices == ("1",)


def test_devices_are_told_apart_by_what_they_are_and_not_by_their_place(tmp_path):
    one, other = DeviceLocks(tmp_path, {"0": "GPU-a"}), DeviceLocks(tmp_path, {"0": "GPU-b", "1": "GPU-a"})
    assert one.take("0")
    assert other.take("0")
    assert not other.take("1")


def test_a_folder_for_locks_that_cannot_be_had_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="DEPTHLAB_RUNTIME_DIR"):
        DeviceLocks(tmp_path / "file" / "locks", {})


def test_cores_are_not_locked():
    devices = (
        find_devices(hardware(cores=1), {"cpu": 1}, None, {}),
        find_devices(hardware(cores=1), {"cpu": 1}, None, {}),
    )
    assert all(each["cpu"].lease(1) for each in devices)
