"""A sweep runs the code that it was launched with: a snapshot in its folder, which its jobs import."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from depthlab.config.check import check
from depthlab.errors import InputError
from depthlab.runs.code import Code, code_of
from depthlab.runs.snapshot import FOLDER, check_snapshot, python_path, take_snapshot
from depthlab.sweeps.preflight import check_code
from depthlab.sweeps.search import tried

from ..conftest import ROOT
from ..whole_runs import install
from .stub_sweep import request, seeds, start_sweep, sweep, wait_for

TAKE = """
import sys
from pathlib import Path
from depthlab.runs.snapshot import take_snapshot
print(take_snapshot(Path(sys.argv[1])))
"""
ASK = """
import json
import depthlab, hydra_plugins.depthlab_options as options
from depthlab.config.registry import broken, extension_modules, groups, lookup
from depthlab.config.folder import config_dir
mixer = __import__("sys").modules[lookup("model", "mixer").__module__]
print(json.dumps({
    "files": [depthlab.__file__, mixer.__file__, options.__file__, str(config_dir())],
    "extensions": [[extension.name, extension.version, module] for extension, module in extension_modules()],
    "broken": broken(),
    "words": lookup("model", "mixer").__doc__,
}))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def python(*arguments, path):
    environment = {**os.environ, "PYTHONPATH": path}
    words = [sys.executable, "-P", *arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_jobs_import_the_snapshot_which_is_removed_when_all_are_done(logs):
    assert sweep(logs.path, *seeds(1, 2)) == 0
    (folder,) = (logs.path / "stubs/sweep").iterdir()
    imported = {Path(each.code) for each in logs.trace("start")}
    assert imported == {folder.resolve() / FOLDER / "depthlab" / "__init__.py"}
    assert not (folder / FOLDER).exists()
    assert all(json.loads(path.read_text())["snapshot"] for path in folder.glob("configs/*.json"))


def test_the_snapshot_of_a_sweep_that_is_not_done_stays_for_its_stack_traces(logs):
    logs.plan({1: {"code": 3}})
    assert sweep(logs.path, *seeds(1, 2)) == 1
    (folder,) = (logs.path / "stubs/sweep").iterdir()
    assert (folder / FOLDER / "depthlab" / "runs" / "run.py").read_bytes() == (
        ROOT / "src/depthlab/runs/run.py"
    ).read_bytes()


@pytest.mark.slow
def test_the_next_launch_takes_the_code_as_it_is_then(logs):
    logs.plan({1: {"seconds": 30}})
    launcher = start_sweep(logs.path, *seeds(1))
    wait_for(lambda: logs.seeds("start") == [1])
    launcher.terminate()
    assert launcher.wait(10) == 75
    logs.plan({})
    assert sweep(logs.path, *seeds(1)) == 0
    first, second = logs.trace("start")
    assert first.code != second.code


def test_a_path_that_python_cannot_be_given_is_said(logs, tmp_path, capfd):
    place = tmp_path / "a:b"
    place.mkdir()
    assert sweep(place, *seeds(1)) == 0
    assert "holds ':', so its jobs import the code where it is: do not edit it." in capfd.readouterr().out


def test_a_snapshot_takes_less_than_a_second_and_5_mb(tmp_path):
    before = time.process_time()
    assert take_snapshot(tmp_path / FOLDER)
    assert time.process_time() - before < 1
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 5e6


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A sweep's folder as the launcher leaves it, with a job that dry_run ends early, taken in a process of its own."""
    folder = tmp_path_factory.mktemp("sweep")
    digest = python("-c", TAKE, str(folder / FOLDER), path=str(ROOT / "src")).stdout.strip()
    return folder, digest


@pytest.fixture
def job(frozen, tmp_path):
    """Runs a job of it, once somebody has altered the files that are given."""
    source, digest = frozen
    subprocess.run(["cp", "-a", str(source / FOLDER), str(tmp_path)], check=True)
    tree = json.loads(json.dumps({"command": "", "config": {"no": "configuration"}, "snapshot": digest}))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "job.json").write_text(json.dumps(tree))

    def run():
        arguments = ("-m", "depthlab.runs.process", str(tmp_path / "configs" / "job.json"))
        return python(*arguments, path=os.pathsep.join([str(tmp_path / FOLDER), str(ROOT / "src")]))

    return tmp_path / FOLDER, run


def edit(folder):
    path = folder / "depthlab/models/blocks.py"
    path.write_text(path.read_text().replace("F.relu(", "F.gelu("))


def forge(folder):
    edit(folder)
    text = (folder / "snapshot.json").read_text()
    (folder / "snapshot.json").write_text(text.replace('"depthlab/models/blocks.py"', '"depthlab/models/other.py"'))


ALTERED = {
    "edited": (edit, "was altered after the sweep was launched: depthlab/models/blocks.py."),
    "added": (
        lambda folder: (folder / "depthlab_extensions" / "late.py").touch(),
        "was altered after the sweep was launched: depthlab_extensions/late.py.",
    ),
    "without a file": (
        lambda folder: (folder / "depthlab/report/report.py").unlink(),
        "altered after the sweep was launched: depthlab/report/report.py.",
    ),
    "forged": (forge, "snapshot.json was altered after the sweep was launched."),
    "removed": (lambda folder: subprocess.run(["rm", "-r", str(folder)], check=True), "and imported "),
}


@pytest.mark.parametrize("how", ALTERED)
def test_an_altered_snapshot_is_refused(job, how):
    folder, run = job
    alter, message = ALTERED[how]
    alter(folder)
    refused = run()
    assert refused.returncode == 2, refused.stderr
    assert message in refused.stderr
    assert "The same line starts the sweep again, with the code as it is now." in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_snapshot_itself_is_imported(job):
    assert "error: no=configuration: no such key" in job[1]().stderr  # past the check


def test_a_job_without_a_snapshot_is_not_checked(tmp_path):
    check_snapshot(tmp_path, None)


def test_extensions_are_those_of_the_launch(tmp_path):
    site, folder = install(tmp_path / "site"), tmp_path / FOLDER
    (site / "depthlab_extensions" / "own").mkdir(parents=True)
    (site / "depthlab_extensions" / "own" / "__init__.py").write_text("from depthlab_extensions.own import part\n")
    (site / "depthlab_extensions" / "own" / "part.py").write_text("import helper_of_mine\n")
    (site / "helper_of_mine.py").write_text("text = 'before'\n")
    (site / "mylab" / "weights.bin").write_bytes(b"\0" * 300_000)
    path = os.pathsep.join([str(site), str(ROOT / "src")])
    before = json.loads(python("-c", ASK, path=path).stdout)
    taken = python("-c", TAKE, str(folder), path=path)
    assert taken.returncode == 0, taken.stderr
    (site / "mylab" / "mixer.py").write_text("raise RuntimeError('edited')\n")
    (site / "helper_of_mine.py").write_text("raise RuntimeError('edited')\n")
    (site / "depthlab_extensions" / "late.py").write_text("raise RuntimeError('not there at the launch')\n")
    (points,) = site.glob("*.dist-info/entry_points.txt")
    points.write_text("[depthlab.extensions]\nlate = mylab.late\n")
    after = json.loads(python("-c", ASK, path=os.pathsep.join([str(folder), path])).stdout)
    assert all(Path(file).is_relative_to(folder) for file in after.pop("files"))
    assert not any(Path(file).is_relative_to(folder) for file in before.pop("files"))
    assert after == before
    assert after["broken"] == {}
    assert (folder / "mylab" / "weights.bin").is_symlink()  # large, and no source
    assert (folder / "mylab" / "weights.bin").stat().st_size == 300_000


def test_the_code_of_a_job_is_that_of_the_launch(tmp_path, logs):
    config = check_config(logs.path)
    assert take_snapshot(tmp_path / FOLDER)
    program = (
        "import json, sys; from depthlab.config.check import check; from depthlab.runs.code import code_of\n"
        "print(json.dumps(code_of(check(json.loads(sys.argv[1]))).as_dict()))"
    )
    path = os.pathsep.join([str(tmp_path / FOLDER), str(ROOT / "src")])
    said = python("-c", program, json.dumps(config), path=path).stdout
    assert json.loads(said) == code_of(check(config)).as_dict()


def check_config(logs):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(request(logs, "seed=1").composed, resolve=True)


def test_python_path_keeps_what_was_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "before")
    assert python_path(tmp_path) == os.pathsep.join([str(tmp_path), "before"])
    monkeypatch.delenv("PYTHONPATH")
    assert python_path(tmp_path) == str(tmp_path)


def finished_with(logs, seed, code):
    path = logs.run_directory(seed) / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, **({} if code is None else {"code": code})}))


@pytest.mark.slow
def test_runs_of_other_code_are_said_once_for_all_and_nothing_starts(logs, capfd):
    assert sweep(logs.path, *seeds(1, 2, 3)) == 0
    files = dict(code_of(check(check_config(logs.path))).files)
    blocks = "depthlab/models/blocks.py"
    for seed in (1, 2):
        finished_with(logs, seed, Code({**files, blocks: "0"}).as_dict())
    finished_with(logs, 3, Code(files).as_dict())
    jobs = seeds(1, 2, 3, 4)
    with pytest.raises(InputError) as caught:
        sweep(logs.path, *jobs)
    assert str(caught.value).splitlines() == [
        "2 of 4 runs were made by other code; nothing was started.",
        f"  plain20 seed 1 and 1 more; differs: {blocks}",
        "code=any accepts what is finished and continues the rest; rerun=true repeats them.",
    ]
    assert logs.seeds("start") == [1, 2, 3]
    capfd.readouterr()
    assert sweep(logs.path, *seeds(1, 2, 3, 4, more="code=any")) == 0
    assert f"code=any: plain20 seed 1 and 1 more of other code, accepted; differs: {blocks}" in capfd.readouterr().out
    assert logs.seeds("start") == [1, 2, 3, 4]
    assert sweep(logs.path, *seeds(1, more="rerun=true")) == 0
    assert logs.seeds("start") == [1, 1, 2, 3, 4]


def test_of_records_from_before_it_is_said_once(logs, capfd):
    assert sweep(logs.path, *seeds(1, 2, 3)) == 0
    capfd.readouterr()
    assert sweep(logs.path, *seeds(1, 2, 3)) == 0
    assert capfd.readouterr().out.count("3 of 3 jobs: its record is from before code was recorded") == 1


def test_a_directory_that_was_renamed_by_hand_is_refused(logs):
    assert sweep(logs.path, *seeds(1)) == 0
    path = logs.run_directory(1) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "run": "digits-plain20-seed7-01234567"}))
    with pytest.raises(InputError, match="it was copied or renamed by hand"):
        sweep(logs.path, *seeds(1, 2))


def test_a_search_does_not_go_on_beside_trials_of_other_code(logs):
    optuna = pytest.importorskip("optuna")
    assert sweep(logs.path, *seeds(1, 2)) == 0
    files = code_of(check(check_config(logs.path))).files
    for seed, blocks in ((1, "0"), (2, files["depthlab/models/blocks.py"])):
        finished_with(logs, seed, Code({**files, "depthlab/models/blocks.py": blocks}).as_dict())
    study = optuna.create_study()
    for seed in (1, 2):
        trial = study.ask()
        trial.set_user_attr("runs", [logs.run_directory(seed).name, "a-run-that-was-removed"])
        study.tell(trial, 1.0)
    runs = tried(study, logs.path / "stubs", "same")
    assert [run.directory for run in runs] == [logs.run_directory(1), logs.run_directory(2)]
    with pytest.raises(InputError, match="1 of 2 runs were made by other code; nothing was started"):
        check_code(runs)
    (said,) = check_code(tried(study, logs.path / "stubs", "any"))
    assert said.startswith(f"code=any: trial 1, {runs[0].directory.name} of other code, accepted; differs: depthlab/")
