"""The command line as a person types it: what it answers, how fast it can, and what it says to mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthlab.config.commandline import options_first
from depthlab.config.hydra_options import option_names

from ..conftest import ROOT, Command
from ..typing_in import TRAIN, answer

TINY = ("data=digits", "model=resnet20", "model.depth=8", "trainer=cpu", "trainer.max_steps=4", "logger=csv")


def records(logs: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(logs.rglob("record.json"))]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("model=resnet56 -m seed=1,2,3", "-m model=resnet56 seed=1,2,3"),
        ("-m model=resnet56 seed=1,2,3", "-m model=resnet56 seed=1,2,3"),
        ("seed=1,2 --multirun", "--multirun seed=1,2"),
        ("seed=1", "seed=1"),
        ("seed=1 --config-dir mine experiment=a -m", "--config-dir mine -m seed=1 experiment=a"),
    ],
)
def test_options_may_stand_anywhere(typed: str, expected: str) -> None:
    assert options_first(typed.split()) == expected.split()


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--cfg", "job", "data=mnist", "model=plain56"]])
def test_help_and_configuration_import_neither_torch_nor_lightning(arguments: list[str]) -> None:
    script = (
        "import runpy, sys, atexit\n"
        "atexit.register(lambda: print('HEAVY', sorted({'torch', 'lightning', 'sklearn'} & set(sys.modules))))\n"
        f"sys.argv = ['train.py', *{arguments!r}]\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert "optimizer" in done.stdout


def test_help_shows_the_groups_their_options_and_examples(command: Command) -> None:
    text = command("train.py", "--help", fresh=True).stdout
    for group in ("model", "data", "optimizer", "schedule", "trainer", "logger", "experiment", "debug"):
        options = [*option_names(group), *(path.stem for path in (ROOT / "configs" / group).glob("*.yaml"))]
        assert options
        (line,) = [line for line in text.splitlines() if line.startswith(f"{group}: ")]
        assert all(option in line for option in options)
    assert text.split("Examples")[1].count("python train.py") >= 5


MISTAKES = [
    ("optimizer.lrr=0.1", ["optimizer.lrr=0.1", "optimizer.lr"]),
    ("+optimizer.lrr=0.1", ["optimizer.lrr=0.1", "optimizer.lr"]),
    ("++optimizer.lrr=0.1", ["optimizer.lrr=0.1", "optimizer.lr"]),
    ("modle=resnet20", ["modle=resnet20", "model"]),
    ("model=resnet21", ["model=resnet21", "resnet20"]),
    ("trainer.max_steps=abc", ["trainer.max_steps", "abc"]),
    ("trainer.max_steps=0", ["trainer.max_steps=0", "greater than 0"]),
    ("trainer.max_steps=-5", ["trainer.max_steps=-5"]),
    ("model.depth=21", ["model.depth=21", "6n+2", "20", "26"]),
    ("model.shortcut=D", ["model.shortcut=D", "A"]),
    ("seed=one", ["seed", "one"]),
    ("seed=-1", ["seed=-1"]),
    ("seed=", ["seed"]),
    ("optimizer.lr=nan", ["optimizer.lr"]),
    ("optimizer=sgdd", ["optimizer=sgdd", "sgd"]),
    ("data.normalization=none", ["data.normalization=none", "per_pixel"]),
    ("trainer.precision=bf16", ["trainer.precision=bf16", "bf16-mixed"]),
    ("data.val_size=1437", ["data.val_size=1437", "1437 images"]),
    ("data.val_size=-1", ["data.val_size=-1"]),
    ("data.classes=[3,x]", ["data.classes", "'x'", "0, 1, 2"]),
    ("data.images_per_class=1000", ["data.images_per_class=1000", "class"]),
    ("data.batch_size=5000", ["data.batch_size=5000", "1300 images"]),
    ("name=../elsewhere", ["name", "letters"]),
    ("trainer=gpu", ["GPU", "trainer=auto"]),
    ("trainer.devices=2", ["trainer.devices=2", "ddp"]),
    ("optimizer.beta1=0.5", ["optimizer.beta1"]),
    ("model=null", ["model=null", "resnet56"]),
    ("trainer=null", ["trainer=null", "auto"]),
    ("~schedule", ["schedule is missing"]),
    ("~trainer.strategy", ["trainer.strategy"]),
    ("a=b=c", ["a=b=c"]),
    ("seed=[1", ["seed=[1"]),
    ("hydra.launcher=null", ["hydra.launcher=null", "Leave it out"]),
]


@pytest.mark.parametrize(("override", "words"), MISTAKES)
def test_a_mistake_is_named_in_a_few_lines_and_nothing_is_written(
    tmp_path: Path, override: str, words: list[str]
) -> None:
    if override == "trainer=gpu" and shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU here")
    code, said = answer(TRAIN.main, *TINY, f"paths.log_dir={tmp_path / 'logs'}", override)
    assert code == 2, said
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 4
    assert all(word in said for word in words), said
    assert not records(tmp_path)


@pytest.mark.parametrize(
    ("override", "words"),
    [("name=../elsewhere", ["letters"]), ("hydra.sweeper.max_batch_size=1", ["jobs_per_device"])],
)
def test_what_a_sweep_may_not_be_is_refused_before_its_folder_is_made(
    tmp_path: Path, override: str, words: list[str]
) -> None:
    logs = tmp_path / "logs"
    code, said = answer(TRAIN.main, *TINY, f"paths.log_dir={logs}", override, "-m", "seed=1,2")
    assert code == 2, said
    assert all(word in said for word in words), said
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "multirun.yaml"]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("override", "words"), MISTAKES)
def test_a_mistake_is_named_by_the_real_command_line_too(
    command: Command, tmp_path: Path, override: str, words: list[str]
) -> None:
    if override == "trainer=gpu" and shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU here")
    done = command("train.py", *TINY, f"paths.log_dir={tmp_path / 'logs'}", override)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert all(word in done.stderr for word in words), done.stderr
    assert not records(tmp_path)


@pytest.mark.slow
def test_a_range_of_folds_is_a_sweep_and_one_too_many_is_refused(command: Command, tmp_path: Path) -> None:
    typed = ("train.py", *TINY, f"paths.log_dir={tmp_path / 'logs'}", "dry_run=true", "data.num_folds=5", "-m")
    done = command(*typed, "data.fold=range(5)")
    assert done.returncode == 0, done.stderr
    for fold in range(5):
        assert f"seed 1 fold {fold}: new" in done.stdout
        assert f"digits-resnet8-seed1fold{fold}-" in done.stdout
    refused = command(*typed, "data.fold=range(6)")
    assert refused.returncode == 2
    assert "data.fold=5: no such fold" in refused.stderr


@pytest.mark.slow
def test_a_training_batch_is_drawn_as_a_picture(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "batch.png"
    done = command("scripts/show_batch.py", "--out", str(out), "--each", "data=digits", "data.flip=true")
    assert done.returncode == 0, done.stderr
    with Image.open(out) as picture:
        pixels = np.asarray(picture.convert("L"), dtype=int)
    rows = np.split(pixels, 6)
    assert all(np.abs(one - other).mean() > 1 for one, other in pairwise(rows))
    assert command("scripts/show_batch.py", "augment.mixup=-1").returncode == 2


def assert_refused_in_few_lines(code: int, said: str, logs: Path) -> None:
    assert code == 2, said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 4
    assert not records(logs)


def test_a_sweep_with_one_mistake_is_refused(tmp_path: Path) -> None:
    code, said = answer(TRAIN.main, *TINY, f"paths.log_dir={tmp_path / 'logs'}", "-m", "modle=a,b")
    assert_refused_in_few_lines(code, said, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "override", ["modle=a,b", "trainer.max_steps=4,abc", "model=resnet20,resnet21", "model.depth=8,9"]
)
def test_a_sweep_with_one_mistake_starts_no_job(command: Command, tmp_path: Path, override: str) -> None:
    done = command("train.py", *TINY, f"paths.log_dir={tmp_path / 'logs'}", "-m", override)
    assert_refused_in_few_lines(done.returncode, done.stderr, tmp_path)


@pytest.mark.slow
def test_the_literal_command_of_the_readme_makes_three_records_and_then_trains_nothing(
    command: Command, tmp_path: Path
) -> None:
    typed = ("train.py", *TINY, f"paths.log_dir={tmp_path / 'logs'}", "-m", "seed=1,2,0")
    first = command(*typed)
    assert first.returncode == 0, first.stderr
    assert not first.stderr.strip(), "a normal sweep warns of nothing"
    made = records(tmp_path)
    assert sorted((record["seed"], record["status"]) for record in made) == [(seed, "finished") for seed in (0, 1, 2)]
    # Each record names the line that repeats it alone.
    assert sorted(str(record["command"])[-6:] for record in made) == ["seed=0", "seed=1", "seed=2"]
    assert " ± " in first.stdout
    again = command(*typed)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already finished") == 3
    assert records(tmp_path) == made


@pytest.mark.slow
def test_a_single_run_prints_one_line_and_no_warning(command: Command, tmp_path: Path) -> None:
    done = command("train.py", *TINY, "logger=tensorboard", f"paths.log_dir={tmp_path / 'logs'}")
    assert done.returncode == 0
    assert not done.stderr.strip()
    (line,) = done.stdout.splitlines()
    (record,) = records(tmp_path)
    assert line.startswith("resnet8 seed 1: test error ")
    assert str(record["run"]) in line
    assert record["command"] == f"python train.py {' '.join(TINY)} logger=tensorboard paths.log_dir={tmp_path / 'logs'}"


@pytest.mark.slow
def test_dry_run_says_what_would_run(command: Command, tmp_path: Path) -> None:
    done = command("train.py", *TINY, f"paths.log_dir={tmp_path / 'logs'}", "dry_run=true")
    assert done.returncode == 0
    assert "resnet8 seed 1: 4 steps on digits" in done.stdout
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # also for root, who may write into any folder
    done = command("train.py", *TINY, f"paths.log_dir={tmp_path / 'file'}")
    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr
    assert "paths.log_dir" in done.stderr


@pytest.mark.slow
def test_absent_data_say_where_they_were_looked_for_and_what_to_do(command: Command, tmp_path: Path) -> None:
    typed = ("train.py", "data=cifar10", f"paths.data_dir={tmp_path / 'data'}", f"paths.log_dir={tmp_path / 'logs'}")
    # A proxy that refuses connections: the download fails here as it does where there is no network.
    done = command(*typed, https_proxy="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    assert done.returncode == 2, done.stderr
    for words in (str(tmp_path / "data"), "DEPTHLAB_DATA_DIR", "data=digits"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_asks_to_be_continued(tmp_path: Path) -> None:
    typed = [sys.executable, "train.py", *TINY, "trainer.max_steps=3000", "logger.every_steps=5"]
    typed += ["checkpoint.every_steps=null", f"paths.log_dir={tmp_path / 'logs'}"]
    process = subprocess.Popen(typed, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not any(len(path.read_text().splitlines()) > 2 for path in tmp_path.rglob("metrics.csv")):
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert "the same command continues it" in output
    (record,) = records(tmp_path)
    assert record["status"] == "running"
    assert [int(path.stem.split("-")[1]) for path in tmp_path.rglob("*.ckpt")] == [record["steps"]]


@pytest.mark.slow
def test_two_processes_share_each_batch_and_leave_one_record(command: Command, tmp_path: Path) -> None:
    typed = ("train.py", *TINY, f"paths.log_dir={tmp_path / 'logs'}", "trainer.precision=32-true")
    done = command(*typed, "trainer=ddp_cpu", "trainer.max_steps=4", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    (record,) = records(tmp_path)
    assert record["num_processes"] == 2
    assert record["steps"] == 4
    data = record["data"]
    assert isinstance(data, dict)
    assert (data["num_train"], data["num_val"], data["num_test"]) == (1300, 137, 360)
    # One process and two see the same images in the same order; batch norm sees half a batch in each of the two.
    alone = command(*typed, "name=alone")
    assert alone.returncode == 0, alone.stderr
    runs = {record["name"]: record for record in records(tmp_path)}
    assert runs["alone"]["run"] != runs["runs"]["run"]
    assert os.path.exists(tmp_path / "logs" / "alone")  # noqa: PTH110


@pytest.mark.slow
def test_a_sweep_of_data_parallel_runs_makes_as_many_steps_on_as_many_images_as_one_process(
    command: Command, tmp_path: Path
) -> None:
    typed = ("train.py", *TINY, f"paths.log_dir={tmp_path / 'logs'}", "trainer.precision=32-true")
    done = command(*typed, "trainer=ddp_cpu", "trainer.max_steps=4", "-m", "seed=1,2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert command(*typed, "name=alone", "seed=1").returncode == 0
    by_name: dict[object, list[dict[str, object]]] = {"runs": [], "alone": []}
    for record in records(tmp_path):
        by_name[record["name"]].append(record)
    (alone,) = by_name["alone"]
    assert [(record["seed"], record["num_processes"]) for record in by_name["runs"]] == [(1, 2), (2, 2)]
    for record in by_name["runs"]:
        assert (record["status"], record["steps"], record["data"]) == ("finished", alone["steps"], alone["data"])
        metrics = record["metrics"]
        assert isinstance(metrics, dict)
        for split, count in (("train", 1300), ("val", 137), ("test", 360)):  # no image counts twice
            num_wrong = metrics[f"{split}/err"] * count / 100
            assert num_wrong == pytest.approx(round(num_wrong), abs=1e-6)


@pytest.mark.parametrize("arguments", [["run=nowhere"], [], ["runn=x"], ["run=configs"]])
def test_evaluate_names_what_is_no_run(command: Command, arguments: list[str]) -> None:
    done = command("scripts/evaluate.py", *arguments, fresh=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_status_lists_runs_and_removes_checkpoints_on_request(command: Command, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    assert command("train.py", *TINY, f"paths.log_dir={logs}").returncode == 0
    listed = command("scripts/status.py", str(logs), COLUMNS="200")
    assert "finished" in listed.stdout
    assert "4/4" in listed.stdout
    assert list(logs.rglob("*.ckpt"))
    assert command("scripts/status.py", str(logs), "--remove-checkpoints").returncode == 0
    assert not list(logs.rglob("*.ckpt*"))
    assert records(logs)[0]["status"] == "finished"
    empty = command("scripts/status.py", str(tmp_path / "nothing"))
    assert empty.returncode == 2
    assert "holds no runs" in empty.stderr
