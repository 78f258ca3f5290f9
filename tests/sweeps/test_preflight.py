"""Everything that is checked, dropped, shown and frozen before the first job."""

import json

import pytest

from depthlab.errors import InputError
from depthlab.sweeps.settings import check_settings

from .stub_sweep import seeds, sweep


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("model.depth=21", "model.depth=21: the depth must be 6n+2"),
        ("trainer.max_steps=abc", "trainer.max_steps"),
        ("seed=-1", "seed=-1: must not be negative"),
        ("trainer=gpu", "trainer.accelerator=gpu"),
        ("trainer=ddp", "trainer.accelerator=gpu"),
        ("trainer.precision=16-mixed", "trainer.precision=16-mixed"),
    ],
)
def test_a_bad_job_is_refused_before_the_first_starts(logs, bad, message):
    with pytest.raises(InputError) as caught:
        sweep(logs.path, *seeds(1, 2), f"model=plain20 {bad}")
    assert message in str(caught.value)
    assert "1 of 3 jobs cannot run; nothing was started" in str(caught.value)
    assert f"job 2 (data=digits name=stubs paths.log_dir={logs.path} model=plain20 {bad})" in str(caught.value)
    assert sorted(path.name for path in logs.path.iterdir()) == ["plan.json"]


def test_one_mistake_in_all_jobs_is_said_once(logs):
    with pytest.raises(InputError) as caught:
        sweep(logs.path, *seeds(1, 2, 3, more="trainer.max_steps=0"))
    assert "3 of 3" in str(caught.value)
    assert str(caught.value).count("max_steps=0: must be greater than 0") == 1


def test_a_job_that_is_there_twice_runs_once(logs, capfd):
    assert sweep(logs.path, *seeds(1, 2, 1)) == 0
    assert logs.seeds("start") == [1, 2]
    assert "job 2 (plain20 seed 1) is the same run as job 0: it runs once" in capfd.readouterr().out


def test_jobs_that_differ_in_what_is_no_part_of_a_run_clash(logs):
    with pytest.raises(InputError, match=r"differ in checkpoint\.every_steps only"):
        sweep(logs.path, "seed=1 checkpoint.every_steps=10", "seed=1 checkpoint.every_steps=20")
    assert logs.trace() == []


def test_a_damaged_record_is_named_and_nothing_starts(logs):
    assert sweep(logs.path, *seeds(1)) == 0
    (logs.run_directory(1) / "record.json").write_text("{")
    with pytest.raises(InputError, match=r"record\.json is damaged"):
        sweep(logs.path, *seeds(1, 2))
    assert logs.seeds("start") == [1]


def test_dry_run_shows_runs_disk_and_time_and_starts_nothing(logs, capfd):
    assert sweep(logs.path, *seeds(1, more="trainer.max_steps=100")) == 0
    capfd.readouterr()
    assert sweep(logs.path, *seeds(1, 2, 3, more="trainer.max_steps=100 dry_run=true"), cores=1) == 0
    said = capfd.readouterr().out
    assert "plain20 seed 1: already finished" in said
    assert "plain20 seed 2: new -> " in said
    assert "2 of 3 jobs to run, 1 at a time" in said
    assert "time: 0:01:40" in said  # the finished run took 50 s
    assert "GB free, checkpoints need 48.0 MB (from finished runs" in said  # twice twelve bytes for each of a million
    assert logs.seeds("start") == [1]


def test_without_finished_runs_the_time_is_not_known(logs, capfd):
    assert sweep(logs.path, *seeds(1, more="dry_run=true")) == 0
    assert "time: - (known once a run" in capfd.readouterr().out


def test_the_time_of_a_sweep_that_is_known_in_part_is_at_least_that(logs, capfd):
    assert sweep(logs.path, *seeds(1, more="trainer.max_steps=100")) == 0
    capfd.readouterr()
    # Half as many images cost 20 s and not 25: a start takes its 10 s however short the run is.
    half = "data.batch_size=32 trainer.max_steps=100 dry_run=true"
    assert sweep(logs.path, f"model=plain20 seed=2 {half}", f"seed=3 model=resnet32 {half}", cores=1) == 0
    said = capfd.readouterr().out
    assert "time: at least 0:00:30 (1 of 2 jobs are of a kind" in said
    assert "checkpoints need at least 24.0 MB (1 of 2" in said


def test_a_continuation_takes_the_time_of_the_steps_that_are_left(logs, capfd):
    assert sweep(logs.path, *seeds(1, more="trainer.max_steps=100")) == 0
    record = logs.run_directory(1) / "record.json"
    tree = json.loads(record.read_text())
    assert sweep(logs.path, *seeds(2, more="trainer.max_steps=100")) == 0
    record.write_text(json.dumps({**tree, "status": "running", "steps": 75}))
    capfd.readouterr()
    assert sweep(logs.path, *seeds(1, more="trainer.max_steps=100 dry_run=true")) == 0
    assert "time: 0:00:20 " in capfd.readouterr().out  # a quarter of 40 s, and 10 s


def test_too_little_space_is_said(logs, capfd, monkeypatch):
    assert sweep(logs.path, *seeds(1)) == 0
    monkeypatch.setattr("depthlab.sweeps.sweep_tables.free_bytes", lambda directory: 1_000_000)
    assert sweep(logs.path, *seeds(2, more="dry_run=true")) == 0
    assert "has too little space. Free some" in capfd.readouterr().out


def test_many_jobs_are_announced(logs, capfd, monkeypatch):
    monkeypatch.setattr("depthlab.sweeps.launcher.MANY", 3)
    assert sweep(logs.path, *seeds(1, 2, 3, more="dry_run=true")) == 0
    assert capfd.readouterr().out.startswith("checking 3 jobs\n")


def test_frozen_configurations_say_what_was_composed_and_how_to_repeat_it(logs):
    assert sweep(logs.path, "model=resnet32 seed=3 optimizer.lr=0.05") == 0
    (path,) = (logs.path / "stubs/sweep").glob("*/configs/*.json")
    frozen = json.loads(path.read_text())
    assert frozen["command"].startswith("python train.py data=digits ")
    assert frozen["command"].endswith("model=resnet32 seed=3 optimizer.lr=0.05")
    assert frozen["config"]["model"]["depth"] == 32
    assert frozen["config"]["optimizer"]["lr"] == 0.05
    assert frozen["config"]["trainer"]["precision"] == "32-true"  # never auto: it is part of what the run is


def test_labels_tell_the_jobs_of_a_sweep_apart(logs, capfd):
    assert sweep(logs.path, "seed=1 optimizer.lr=0.1 dry_run=true", "seed=1 optimizer.lr=0.2 dry_run=true") == 0
    assert "resnet20 seed 1 optimizer.lr=0.2: new" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, "continue", 0), "jobs_per_device=0"),
        (("two", "continue", 0), "jobs_per_device=two"),
        ((None, "stopp", 0), "on_error=stopp: no such choice. Did you mean stop"),
        ((None, "stop", -1), "retries=-1"),
        ((None, "stop", True), "retries=True"),
        (("auto", "stop", 0, "onn"), "mps=onn: no such choice. Did you mean on"),
    ],
)
def test_settings_are_checked_by_name(given, message):
    with pytest.raises(InputError, match=message):
        check_settings(*given)
