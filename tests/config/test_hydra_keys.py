"""Configuration files from elsewhere: found with --config-dir, and limited in what they may say to Hydra."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..conftest import Command
from ..typing_in import TRAIN, answer

TINY = ("data=digits", "model=resnet20", "model.depth=8", "trainer=cpu", "trainer.max_steps=2", "logger=csv")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder outside the project, with an experiment of its own."""
    folder = tmp_path / "mine"
    (folder / "experiment").mkdir(parents=True)
    write(folder, "mine", "defaults: [{override /data: digits}]\nname: mine\noptimizer: {lr: 0.05}")
    return folder


def write(folder: Path, name: str, text: str) -> None:
    (folder / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")


def train(tmp_path: Path, *words: str) -> tuple[int, str]:
    """What `train` answers to a dry run with files of that folder."""
    folder = ("--config-dir", str(tmp_path / "mine"))
    return answer(TRAIN.main, *TINY, f"paths.log_dir={tmp_path / 'logs'}", "dry_run=true", *folder, *words)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "mine" not in path.parts)


def test_an_experiment_file_of_another_folder_is_used(mine: Path, tmp_path: Path) -> None:
    code, said = train(tmp_path, "experiment=mine")
    assert code == 0, said
    assert "logs/mine/digits-resnet8-seed1-" in said


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, said = train(tmp_path, "experiment=mine")
    assert (code, said.count("\n")) == (2, 1)
    assert f"--config-dir {tmp_path / 'mine'}: there is no such folder" in said


ATTACKS = {
    "hydra.callbacks.x._target_": "hydra: {callbacks: {x: {_target_: os.mkdir, path: MADE}}}",
    "hydra.job_logging": "hydra: {job_logging: {handlers: {f: {class: logging.FileHandler, filename: MADE}}}}",
    "hydra.hydra_logging": "hydra: {hydra_logging: {handlers: {f: {class: logging.FileHandler, filename: MADE}}}}",
    "hydra.run.dir": "hydra: {run: {dir: MADE}}",
    "hydra.sweep.dir": "hydra: {mode: MULTIRUN, sweep: {dir: MADE}}",
    "hydra.output_subdir": "hydra: {output_subdir: MADE}",
    "hydra.job.env_set.LD_PRELOAD": "hydra: {job: {env_set: {LD_PRELOAD: MADE}}}",
    "hydra.launcher._target_": "hydra: {mode: MULTIRUN, launcher: {_target_: os.mkdir}}",
    "hydra.launcher.ray._target_": "hydra: {mode: MULTIRUN, launcher: {ray: {_target_: os.mkdir}}}",
    "hydra.sweeper._target_": "hydra: {mode: MULTIRUN, sweeper: {_target_: os.mkdir}}",
    "hydra.launcher.submitit_folder": "hydra: {launcher: {submitit_folder: MADE}}",
    "hydra.launcher.partition": 'hydra: {launcher: {partition: "gpu\\n#SBATCH --output=MADE"}}',
    "hydra.sweeper.params.hydra.run.dir": "hydra: {mode: MULTIRUN, sweeper: {params: {hydra.run.dir: MADE}}}",
    "name": "hydra: {mode: MULTIRUN}\nname: ../../made",
}


@pytest.mark.parametrize("key", ATTACKS)
def test_a_file_that_would_have_hydra_run_code_or_write_elsewhere_is_refused(
    mine: Path, tmp_path: Path, key: str
) -> None:
    write(mine, "attack", ATTACKS[key].replace("MADE", str(tmp_path / "made")))
    code, said = train(tmp_path, "experiment=attack")
    assert (code, said.splitlines()[0].startswith(f"error: {key}")) == (2, True), said
    assert len(said.splitlines()) <= 3
    assert files(tmp_path) == []


def test_a_launcher_that_composes_in_its_jobs_gets_no_unchecked_file_either(mine: Path, tmp_path: Path) -> None:
    write(mine, "attack", ATTACKS["hydra.job_logging"].replace("MADE", str(tmp_path / "made")))
    code, said = train(tmp_path, "-m", "experiment=mine,attack", "hydra/launcher=basic")
    assert (code, "hydra.job_logging" in said) == (2, True), said
    assert files(tmp_path) == []


def test_an_option_of_hydras_own_groups_is_not_taken_from_elsewhere(mine: Path, tmp_path: Path) -> None:
    (mine / "hydra" / "launcher").mkdir(parents=True)
    (mine / "hydra" / "launcher" / "evil.yaml").write_text("_target_: os.mkdir\n")
    code, said = train(tmp_path, "-m", "seed=1,2", "hydra/launcher=evil")
    assert (code, "hydra/launcher=evil: no such option" in said) == (2, True), said


@pytest.mark.parametrize("word", ["--config-path=elsewhere", "--config-name=other", "hydra.searchpath=[elsewhere]"])
def test_the_projects_own_files_are_not_replaced(mine: Path, tmp_path: Path, word: str) -> None:
    code, said = train(tmp_path, word)
    assert (code, "--config-dir DIR" in said) == (2, True), said


def test_a_sweep_with_values_of_the_launcher_is_planned(mine: Path, tmp_path: Path) -> None:
    keys = "mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}, launcher: {jobs_per_device: 1, retries: 2, mps: 'off'}"
    write(mine, "sweep", f"name: mine\nhydra: {{{keys}}}")
    code, said = train(tmp_path, "experiment=sweep")
    assert (code, "2 of 2 jobs to run, 1 at a time" in said) == (0, True), said


@pytest.mark.slow
def test_a_sweep_of_such_a_file_trains_and_its_records_name_the_folder(
    mine: Path, tmp_path: Path, command: Command
) -> None:
    folder = ("--config-dir", str(mine))
    done = command("train.py", *TINY, "-m", "seed=1,2", *folder, "experiment=mine", f"paths.log_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("mine/*/record.json"))]
    assert [record["config"]["optimizer"]["lr"] for record in records] == [0.05, 0.05]
    for record in records:
        assert record["command"].startswith(f"python train.py --config-dir {mine} ")


REFUSED = [
    (("-m", "seed=range(5,1)"), "no values"),
    (("-m", "seed=glob(*)"), "glob chooses among the options of a group"),
    (("-m", "seed='glob(*)'"), "seed"),
    (("-m", "seed=range(0,1e9)"), "1,000,000,000 jobs. A sweep takes at most 10,000."),
    (("-m", "seed=range(0,200)", "trainer.num_threads=range(1,200)"), "39,800 jobs"),
    (("-m", "seed=range(1,2,0)"), "step other than 0"),
    (("-m", "seed=interval(1,2)"), "single values"),
    (("-m", "hydra.sweeper.params.seed="), "-m KEY=VALUE,VALUE"),
    (("-m", "seed=1,2", "hydra.launcher._target_=os.mkdir"), "hydra/launcher=pool"),
    (("--cfg", "job", "-m"), "--cfg job shows"),
    (("--resolve",), "only together with --cfg"),
    (("--experimental-rerun", "x.pickle"), "not possible"),
]


@pytest.mark.parametrize(("words", "expected"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_sweep_or_an_option_that_makes_no_sense_is_refused_in_few_lines(
    mine: Path, tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    code, said = train(tmp_path, *words)
    assert code == 2
    assert said.startswith("error: ") and expected in said, said
    assert len(said.splitlines()) <= 4
