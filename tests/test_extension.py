"""Components from outside: an installed package, and a single new file in a clone, through the real command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from depthlab.records.checkpoints import load_newest
from depthlab.records.record import read_record

from .conftest import ROOT
from .warm import Warm
from .whole_runs import SOURCE, install

CLASSES = (
    *("data=stripes", "model=mixer", "model.patch=2", "optimizer=lion", "schedule=triangle", "loss=poly1"),
    *("metrics=kappa", "callbacks=update_counter", "logger=[tensorboard,text_log]", "augment.cutout.size=3"),
)
NUMBERS = ("data=brightness_ramps", "model=mixer", "model.patch=4", "optimizer=adamw", "task=absolute_error")
SHORT = ("trainer=cpu", "trainer.num_threads=1", "trainer.max_steps=12", "trainer.val_every_steps=6")

pytestmark = pytest.mark.slow


class Lab:
    """A folder with the package installed, and a place for logs."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.site = install(folder / "site")

        self.python = {site: Warm(self.environment(site)) for site in (True, False)}

    def environment(self, installed: bool = True) -> dict[str, str]:
        found = {**os.environ, "OMP_NUM_THREADS": "1"}
        return {**found, "PYTHONPATH": str(self.site)} if installed else found

    def run(self, *arguments: str, installed: bool = True) -> subprocess.CompletedProcess[str]:
        environment = self.environment(installed)
        return self.python[installed].run(arguments, ROOT, environment, self.site.parent, timeout_seconds=300)

    def close(self) -> None:
        for python in self.python.values():
            python.close()

    def train(self, *overrides: str, installed: bool = True) -> subprocess.CompletedProcess[str]:
        places = (f"paths.log_dir={self.logs}", "logger.every_steps=3")
        return self.run("train.py", *SHORT, *places, *overrides, installed=installed)

    def directory(self, pattern: str = "*", name: str = "runs") -> Path:
        (found,) = [path for path in (self.logs / name).glob(pattern) if (path / "record.json").exists()]
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


def weights(directory: Path) -> dict[str, torch.Tensor]:
    state = load_newest(directory, tidy=False)
    assert state is not None
    found: dict[str, torch.Tensor] = state["network"]
    return found


def test_every_kind_of_component_trains_and_leaves_its_trace(lab: Lab) -> None:
    done = lab.train(*CLASSES)
    assert done.returncode == 0, done.stderr
    directory = lab.directory("stripes-*")
    record = read_record(directory)
    assert (record.status, record.steps) == ("finished", 12)
    assert directory.name.startswith("stripes-mixer2_p2-seed1-")
    assert record.extensions == {"mylab": "1.2.0"}
    assert record.task is not None
    assert record.task["metrics"]["kappa"]["better"] == "higher"
    assert {"test/err", "test/kappa", "val/kappa"} <= set(record.metrics)
    header = (directory / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val/kappa", "batches_seen"} <= set(header)
    assert "12 train/loss" in (directory / "values.txt").read_text()
    assert record.config["augment"]["cutout"] == {"size": 3, "probability": 1.0}


def test_a_task_with_numbers_as_targets_trains_and_is_reported(lab: Lab) -> None:
    done = lab.train(*NUMBERS, "name=numbers", "-m", "seed=1,2")
    assert done.returncode == 0, done.stdout + done.stderr
    record = read_record(lab.directory("*seed1*", "numbers"))
    assert record.task is not None
    assert record.task["primary"] == "mae"
    assert {"test/mae", "test/within", "train/mae_running"} <= set(record.metrics)
    report = lab.run("scripts/report.py", str(lab.logs / "numbers"))
    assert report.returncode == 0, report.stderr
    page = (lab.logs / "numbers" / "report" / "report.md").read_text()
    assert "mean absolute error" in page
    assert "Degradation" not in page


def test_a_sweep_over_keys_of_ones_own(lab: Lab) -> None:
    keys = ("model.depth=1,2", "optimizer.beta=0.5", "schedule.peak_at=0.25", "data.num_images=120")
    done = lab.train(*CLASSES, "name=sweep", "-m", *keys)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [read_record(path.parent) for path in (lab.logs / "sweep").glob("*/record.json")]
    assert sorted(record.config["model"]["depth"] for record in records) == [1, 2]
    assert len({record.run for record in records}) == 2
    status = lab.run("scripts/status.py", str(lab.logs / "sweep"))
    assert status.returncode == 0, status.stderr
    report = lab.run("scripts/report.py", str(lab.logs / "sweep"))
    assert report.returncode == 0, report.stderr


def test_a_killed_run_continues_bit_for_bit(lab: Lab) -> None:
    length = ("trainer.max_steps=60", "trainer.val_every_steps=10", "checkpoint.every_steps=5")
    assert lab.train(*CLASSES, *length, "name=whole").returncode == 0
    arguments = ["train.py", *SHORT, f"paths.log_dir={lab.logs}", "logger.every_steps=3", *CLASSES, *length]
    process = subprocess.Popen(
        [sys.executable, *arguments, "name=cut"],
        cwd=ROOT,
        env=lab.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_checkpoint(lab.logs / "cut", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lab.train(*CLASSES, *length, "name=cut").returncode == 0
    whole, cut = lab.directory(name="whole"), lab.directory(name="cut")
    assert len(read_record(cut).segments) == 2
    assert read_record(cut).metrics == read_record(whole).metrics
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(cut)[name]), name
    assert (cut / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        if list(folder.glob("*/checkpoints/step-*.ckpt.sha256")):
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    pytest.fail("no checkpoint was written")


def test_it_is_evaluated_and_loaded_and_the_missing_package_is_named(lab: Lab) -> None:
    if not (lab.logs / "runs").exists():
        lab.train(*CLASSES)
    directory = lab.directory("stripes-*")
    evaluated = lab.run("scripts/evaluate.py", f"run={directory}")
    assert evaluated.returncode == 0, evaluated.stderr
    expected = read_record(directory).metrics["test/kappa"]
    assert f"{expected}" in evaluated.stdout
    code = f"import depthlab; network, record = depthlab.load_run({str(directory)!r}); print(type(network).__name__)"
    assert lab.run("-c", code).stdout == "MixerNet\n"
    for arguments in (["scripts/evaluate.py", f"run={directory}"], ["-c", code]):
        without = lab.run(*arguments, installed=False)
        assert without.returncode != 0
        assert "The run uses an extension that is not installed here: mylab 1.2.0." in without.stdout + without.stderr
    report = lab.run("scripts/report.py", str(lab.logs / "runs"), installed=False)
    assert report.returncode == 0, report.stderr


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("model.pach=2", "model.patch"),
        ("data.num_image=9", "data.num_images"),
        ("optimizer.betta=0.5", "optimizer.beta"),
        ("schedule.peak_t=0.5", "schedule.peak_at"),
        ("loss.epsilom=1", "loss.epsilon"),
        ("metrics.kappa.weigths=linear", "metrics.kappa.weights"),
        ("callbacks.update_counter.stop_afer=2", "callbacks.update_counter.stop_after"),
        ("logger.text_log.filname=a", "logger.text_log.filename"),
        ("augment.cutout.sice=2", "augment.cutout.size"),
    ],
)
def test_a_typo_in_a_key_is_answered_with_the_right_name(lab: Lab, typed: str, right: str) -> None:
    refused = lab.train(*CLASSES, typed)
    assert refused.returncode == 2
    assert f"Did you mean {right}?" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_without_the_package_its_names_are_unknown_and_the_nearest_is_named(lab: Lab) -> None:
    refused = lab.train("model=mixer", installed=False)
    assert refused.returncode == 2
    assert "model=mixer: no such option" in refused.stderr


def test_a_value_out_of_range_is_refused(lab: Lab) -> None:
    for override, reason in (("model.patch=0", "greater than 0"), ("schedule.peak_at=2", "0.95 or less")):
        refused = lab.train(*CLASSES, override)
        assert refused.returncode == 2
        assert override in refused.stderr
        assert reason in refused.stderr


def test_a_task_that_does_not_fit_the_data_is_refused_before_anything_starts(lab: Lab) -> None:
    refused = lab.train("data=stripes", "model=mixer", "task=absolute_error", "name=unfit")
    assert refused.returncode == 2
    assert "it learns numbers, and data=stripes has classes" in refused.stderr
    assert not (lab.logs / "unfit").exists()


def test_an_extension_that_cannot_be_imported_spoils_only_what_uses_it(tmp_path: Path) -> None:
    with closing(Lab(tmp_path)) as lab:
        (lab.site / "mylab" / "mixer.py").write_text("import depthlab\n\nraise RuntimeError('half written')\n")
        refused = lab.train("data=stripes", "model=mixer")
        assert refused.returncode == 2
        assert re.search(r"mylab.*mixer\.py:3: RuntimeError: half written", refused.stderr)
        assert "Traceback" not in refused.stderr
        done = lab.train("data=stripes", "model=resnet20", "model.depth=8")
        assert done.returncode == 0, done.stderr


def test_a_single_new_file_in_a_clone_is_found(tmp_path: Path) -> None:
    """Nothing is installed again, and no other file is edited."""
    clone = tmp_path / "clone"
    tracked = subprocess.run(["git", "ls-files", "src", "configs", "scripts", "train.py"], cwd=ROOT, check=True,
                             capture_output=True, text=True).stdout.split()  # fmt: skip
    for name in tracked:
        if (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name)
    text = (SOURCE / "src/mylab/mixer.py").read_text() + "\n\n" + (SOURCE / "src/mylab/mixer_net.py").read_text()
    text = text.replace("        from mylab.mixer_net import MixerNet\n\n", "")
    future = "from __future__ import annotations\n"
    text = future + text.replace(future, "")
    (clone / "src/depthlab_extensions/mixer.py").write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(clone / "src")}
    logs = tmp_path / "logs"

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            check=False,
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    places = (*SHORT, f"paths.log_dir={logs}", "data=digits", "model=mixer", "name=mine")
    done = command("train.py", *places, "-m", "model.patch=2,4")
    assert done.returncode == 0, done.stdout + done.stderr
    records = [read_record(path.parent) for path in (logs / "mine").glob("*/record.json")]
    assert sorted(record.config["model"]["patch"] for record in records) == [2, 4]
    (extension,) = (records[0].extensions or {}).items()
    assert extension[0] == "depthlab_extensions.mixer"
    assert extension[1].startswith("sha256:")
    report = command("scripts/report.py", str(logs / "mine"))
    assert report.returncode == 0, report.stderr
    evaluated = command("scripts/evaluate.py", f"run={next((logs / 'mine').glob('digits-*'))}")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(json.dumps(records[0].task))["name"] == "classification"
