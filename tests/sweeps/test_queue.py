"""The queue over devices, with real processes that do not train."""

import json
from collections import defaultdict
from itertools import pairwise

import pytest

from depthlab.records.directory import claim
from depthlab.records.record import read_record
from depthlab.sweeps.device_locks import DeviceLocks
from depthlab.sweeps.live_view import Lines

from .stub_sweep import seeds, start_sweep, sweep, wait_for


@pytest.mark.slow
def test_12_uneven_jobs_keep_4_devices_busy_and_never_share_one(logs, monkeypatch):
    lengths = [1.4, 0.5, 0.9, 1.5, 0.6, 1.2, 0.5, 1.0, 0.8, 1.5, 0.55, 0.9]
    logs.plan({seed: {"seconds": length} for seed, length in enumerate(lengths)})
    began = {}
    monkeypatch.setattr(Lines, "started", lambda _, entry: began.update({entry.job.config.seed: entry.started_at}))
    assert sweep(logs.path, *seeds(*range(12), more="trainer=gpu"), gpus=4) == 0

    leases = defaultdict(list)
    for each in logs.trace("end"):
        leases[each.devices].append((began[each.seed], each.at))
    gaps = [(end, start) for spans in leases.values() for (_, end), (start, _) in pairwise(sorted(spans))]
    assert sorted(leases) == ["0", "1", "2", "3"]
    assert len(gaps) == 8
    assert all(end <= start for end, start in gaps)  # never two leases of one device at once
    idle = sum(start - end for end, start in gaps)  # jobs waited all that time: one came after each gap
    assert idle < 0.05 * 4 * (max(began.values()) - min(began.values()))


@pytest.mark.slow
def test_jobs_per_device_shares_a_gpu_among_that_many(logs):
    logs.plan({seed: {"seconds": 2.0} for seed in range(6)})
    assert sweep(logs.path, *seeds(*range(6), more="trainer=gpu"), gpus=1, jobs_per_device=3) == 0
    assert {each.devices for each in logs.trace()} == {"0"}
    assert most_at_once(logs) == 3


def test_visible_devices_that_were_chosen_before_are_kept(logs, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7a")
    logs.plan({seed: {"seconds": 0.3} for seed in range(2)})
    assert sweep(logs.path, *seeds(0, 1, more="trainer=gpu"), gpus=2) == 0
    assert sorted(each.devices for each in logs.trace("start")) == ["5", "GPU-7a"]


@pytest.mark.slow
def test_a_job_over_two_devices_gets_two_and_does_not_starve(logs):
    logs.plan({seed: {"seconds": 0.2} for seed in range(10)})
    jobs = [*seeds(*range(6), more="trainer=gpu"), *seeds(8, 9, more="trainer=ddp trainer.devices=2")]
    assert sweep(logs.path, *jobs, gpus=3) == 0
    wide = [each for each in logs.trace("start") if each.seed >= 8]
    assert [len(set(each.devices.split(","))) for each in wide] == [2, 2]
    in_use: dict[str, int] = defaultdict(int)
    for each in logs.trace():
        for device in each.devices.split(","):
            in_use[device] += 1 if each.event == "start" else -1
            assert in_use[device] <= 1


@pytest.mark.slow
def test_on_the_cpu_each_job_has_its_share_of_the_cores(logs):
    logs.plan({seed: {"seconds": 0.3} for seed in range(3)})
    assert sweep(logs.path, *seeds(0, 1, 2), cores=9, jobs_per_device=2) == 0
    assert most_at_once(logs) == 2
    assert {(each.threads, each.num_threads, each.devices) for each in logs.trace()} == {("4", 4, "")}


def test_on_the_cpu_there_is_a_job_for_each_core_but_no_core_is_left_to_none(logs):
    logs.plan({seed: {"seconds": 0.3} for seed in range(2)})
    assert sweep(logs.path, *seeds(0, 1), cores=8) == 0
    assert {each.num_threads for each in logs.trace()} == {4}


def test_a_failure_leaves_the_others_alone_and_is_explained(logs, capfd):
    logs.plan({1: {"code": 3}, 2: {"code": 1}})
    assert sweep(logs.path, *seeds(1, 2, 3, 4)) == 1
    assert logs.seeds("end") == [1, 2, 3, 4]
    said = capfd.readouterr().out
    assert "plain20 seed 1: failed: exit code 3" in said
    assert "plain20 seed 2: failed: planned" in said
    assert "stub seed 1 ends with 3" in said
    assert "2 of 4 jobs did not finish" in said


def test_a_divergence_is_a_result(logs):
    logs.plan({1: {"status": "diverged"}})
    assert sweep(logs.path, *seeds(1, 2)) == 0


def test_a_job_whose_record_is_not_finished_has_failed_whatever_its_exit_code(logs, capfd):
    logs.plan({1: {"status": "running"}})
    assert sweep(logs.path, *seeds(1)) == 1
    assert "ended well, but its record says running" in capfd.readouterr().out


@pytest.mark.slow
def test_retries_use_the_same_directory(logs):
    logs.plan({1: {"code": 1, "fails": 2}})
    assert sweep(logs.path, *seeds(1, 2), retries=2) == 0
    assert logs.seeds("start") == [1, 1, 1, 2]
    assert (logs.run_directory(1) / "attempts").read_text() == "xxx"


def test_retries_end(logs):
    logs.plan({1: {"code": 1}})
    assert sweep(logs.path, *seeds(1), retries=1) == 1
    assert logs.seeds("start") == [1, 1]


def test_mistakes_are_not_tried_again(logs):
    logs.plan({1: {"code": 2}})
    assert sweep(logs.path, *seeds(1), retries=3) == 1
    assert logs.seeds("start") == [1]


@pytest.mark.slow
def test_on_error_stop_starts_no_more(logs):
    logs.plan({1: {"code": 1, "seconds": 0.1}, 2: {"seconds": 0.5}, 3: {}, 4: {}})
    assert sweep(logs.path, *seeds(1, 2, 3, 4), on_error="stop") == 1
    assert logs.seeds("end") == [1, 2]
    assert read_record(logs.run_directory(2))["status"] == "finished"


def test_finished_runs_are_skipped_and_the_results_are_shown(logs, capfd):
    assert sweep(logs.path, *seeds(1, 2)) == 0
    capfd.readouterr()
    assert sweep(logs.path, *seeds(1, 2)) == 0
    said = capfd.readouterr().out
    assert logs.seeds("start") == [1, 2]
    assert "plain20 seed 1: already finished, test error 11.00 %" in said
    assert "nothing to train" in said
    assert "11.50 ± 0.71" in said
    assert len(list((logs.path / "stubs/sweep").iterdir())) == 1


def test_rerun_repeats_a_finished_run_once(logs):
    assert sweep(logs.path, *seeds(1)) == 0
    assert sweep(logs.path, *seeds(1, more="rerun=true")) == 0
    assert logs.seeds("start") == [1, 1]


@pytest.mark.slow
def test_a_run_that_another_process_holds_is_waited_for_and_not_run_twice(logs, capfd):
    assert sweep(logs.path, *seeds(1)) == 0
    directory = logs.run_directory(1)
    record = json.loads((directory / "record.json").read_text())
    (directory / "record.json").write_text(json.dumps({**record, "status": "running"}))
    with claim(directory):
        other = start_sweep(logs.path, *seeds(1, 2))
        wait_for(lambda: logs.seeds("end") == [1, 2])
        assert logs.seeds("start") == [1, 2]
        (directory / "record.json").write_text(json.dumps(record))
    assert other.wait(10) == 0
    assert logs.seeds("start") == [1, 2]
    assert "plain20 seed 1: finished by another process" in other.stdout.read()


@pytest.mark.slow
def test_two_launchers_share_a_sweep(logs):
    logs.plan({seed: {"seconds": 0.2} for seed in range(6)})
    both = [start_sweep(logs.path, *seeds(*range(6))) for _ in range(2)]
    assert [each.wait(30) for each in both] == [0, 0]
    assert logs.seeds("start") == list(range(6))


@pytest.mark.slow
@pytest.mark.parametrize("places", [1, 2])
def test_two_launchers_never_hold_one_gpu_at_once(logs, places):
    logs.plan({seed: {"seconds": 0.3} for seed in range(12)})
    jobs = seeds(*range(6), more="trainer=gpu"), seeds(*range(6, 12), more="trainer=gpu name=others")
    both = [start_sweep(logs.path, *part, gpus=2, jobs_per_device=places) for part in jobs]
    assert [each.wait(60) for each in both] == [0, 0]
    assert logs.seeds("end") == list(range(12))
    in_use: dict[str, set[int]] = defaultdict(set)  # by device: the launchers, told apart by their jobs
    for each in logs.trace():
        of_launcher = {seed for seed in in_use[each.devices] if seed // 6 == each.seed // 6}
        assert in_use[each.devices] == of_launcher
        (in_use[each.devices].add if each.event == "start" else in_use[each.devices].remove)(each.seed)


@pytest.mark.slow
def test_a_launcher_whose_devices_another_holds_says_so_and_waits(logs, runtime_folder):
    locks = DeviceLocks(runtime_folder, {})
    assert locks.take("0")
    launcher = start_sweep(logs.path, *seeds(1, more="trainer=gpu"), gpus=1)
    wait_for(lambda: "another launcher holds devices of the kind gpu" in launcher.stdout.readline())
    assert logs.trace() == []
    locks.give_back("0")
    assert launcher.wait(10) == 0
    assert logs.seeds("end") == [1]


@pytest.mark.slow
def test_a_killed_launcher_lets_go_of_its_devices(logs):
    logs.plan({1: {"seconds": 30}})
    launcher = start_sweep(logs.path, *seeds(1, more="trainer=gpu"), gpus=1)
    wait_for(lambda: logs.seeds("start") == [1])
    launcher.kill()
    launcher.wait()
    assert sweep(logs.path, *seeds(2, more="trainer=gpu"), gpus=1) == 0


def test_the_log_is_in_the_run_directory_too(logs):
    assert sweep(logs.path, *seeds(1)) == 0
    assert (logs.run_directory(1) / "job.log").read_text() == "stub seed 1 ends with 0\n"


def most_at_once(logs) -> int:
    running = most = 0
    for each in logs.trace():
        running += {"start": 1, "end": -1}[each.event]
        most = max(most, running)
    return most
