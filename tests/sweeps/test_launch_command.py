"""What is typed: the plugin is found, the launcher stays light, sweeps run. Searches, of stub jobs and of real runs."""

import copy
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from depthlab.config.check import check, check_search
from depthlab.config.schema import as_dict
from depthlab.config.sweep_size import sweep_parts
from depthlab.errors import InputError
from depthlab.records.record import find_records, read_record
from depthlab.sweeps.launcher import launch_search
from depthlab.sweeps.preflight import Request
from depthlab.sweeps.search_space import ask, split
from depthlab.sweeps.settings import Settings

from ..conftest import ROOT, compose_tree
from ..typing_in import TRAIN, answer
from .stub_sweep import composed, hardware, wait_for


def test_the_launcher_imports_no_torch_and_the_plugin_almost_nothing(command):
    code = "import sys, {}; print([m for m in ('torch', 'lightning', 'rich', 'depthlab') if m in sys.modules])"
    assert command("-c", code.format("hydra_plugins.depthlab_pool")).stdout == "[]\n"
    assert command("-c", code.format("depthlab.sweeps.launcher")).stdout == "['rich', 'depthlab']\n"


@pytest.mark.slow
def test_the_sweep_of_the_readme_runs_once_and_then_has_nothing_to_do(command, tmp_path):
    line = ["train.py", "debug=steps", "data=digits", "model=plain20", "-m", "seed=1,2", f"paths.log_dir={tmp_path}"]
    first = command(*line)
    assert first.returncode == 0, first.stdout + first.stderr
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("debug/*/record.json"))]
    assert [(record["status"], record["seed"]) for record in records] == [("finished", 1), ("finished", 2)]
    assert records[1]["command"].startswith("python train.py debug=steps data=digits model=plain20 seed=2 ")
    again = command(*line)
    assert again.returncode == 0
    assert "plain20 seed 2: already finished, test error" in again.stdout
    assert "all 2 jobs are done: nothing to train" in again.stdout


@pytest.mark.slow
def test_a_bad_job_is_refused_in_a_few_lines(command, tmp_path):
    refused = command("train.py", "data=digits", "-m", "model.depth=20,21", f"paths.log_dir={tmp_path}")
    assert refused.returncode == 2
    assert "model.depth=21" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.glob("*/*/record.json"))


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["on_error=stopp", "retries=-1", "jobs_per_device=0"])
def test_a_setting_of_the_launcher_is_refused_by_name(command, tmp_path, setting):
    refused = command("train.py", "-m", "seed=1,2", f"hydra.launcher.{setting}", f"paths.log_dir={tmp_path}")
    assert refused.returncode == 2
    assert f"hydra.launcher.{setting}" in refused.stderr


# A job without training, whose validation error is 5 % at a rate of 0.1 and rises by 30 for each factor of 10.
STUB_TRIAL = """
import json, math, os, signal, sys, time
frozen = json.load(open(sys.argv[1]))
config, stopped = frozen["config"], []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
lr, seed, plan = config["optimizer"]["lr"], config["seed"], json.loads(os.environ.get("STUB", "{}"))
err = min(90.0, 5 + 30 * abs(math.log10(lr / 0.1)) + 0.1 * seed)
directory = os.path.join(config["paths"]["log_dir"], config["name"], frozen["directory"])
os.makedirs(directory, exist_ok=True)
def write(name, text, mode="w"):
    with open(os.path.join(directory, name), mode) as file:
        file.write(text)
def end(status, code=0, **values):
    metrics = {"info": {"title": "error", "unit": "%", "better": "lower", "max": 100.0, "chance": 90.0}}
    task = {"name": "classification", "primary": "err", "metrics": {"err": metrics["info"]}}
    record = {"version": 1, "status": status, "name": config["name"], "seed": seed, "command": frozen["command"]}
    record |= {"config": config, "model": {}, "data": {}, "metrics": {}, "steps": 0, "task": task, **values}
    write("record.json", json.dumps(record))
    write("../trace", f"{status} {directory}\\n", "a")
    os._exit(code)
write("../trace", f"start {directory}\\n", "a")
rows = "step,val/err\\n"
for step in (10, 20, 30, 40):
    rows += f"{step},{err + 40 - step}\\n"
    write("metrics.csv", rows)
    until = time.monotonic() + plan.get("seconds", 0.02)
    while time.monotonic() < until:
        if stopped:
            end("running", 75, steps=step)
        time.sleep(0.005)
if lr > plan.get("diverges_above", 9):
    end("diverged", steps=40)
if lr < plan.get("fails_below", 0):
    end("failed", 1, failure={"reason": "planned"})
end("finished", steps=40, metrics={"val/err": err, "test/err": 99.0})
"""


@functools.cache
def parser() -> OverridesParser:
    return OverridesParser.create()


def search(log_dir: Path, *words: str, cores: int = 1, **keys: object) -> int:
    """Search with stub jobs in this process; the exit code."""
    stub = log_dir / "stub.py"
    stub.write_text(STUB_TRIAL)
    base = composed(("model=plain20", "trainer.max_steps=40", "trainer.val_every_steps=10"))

    def compose(overrides: list[str]) -> Request:
        config = copy.deepcopy(base)
        config.paths.log_dir = str(log_dir)
        for key, _, value in (word.partition("=") for word in overrides):
            OmegaConf.update(config, key, parser().parse_override(f"{key}={value}").value())
        return Request(tuple(overrides), config)

    return launch_search(
        sweep_parts(parser().parse_overrides(list(words) or ["optimizer.lr=interval(1e-3,1)"]), {}),
        compose,
        check_search(keys),
        log_dir / "stubs" / "sweep",
        Settings(),
        command=lambda frozen: [sys.executable, str(stub), str(frozen)],
        probe=lambda: hardware(0, cores),
    )


def found(log_dir: Path) -> dict:
    """search.json."""
    (path,) = log_dir.glob("stubs/sweep/search-*/search.json")
    return json.loads(path.read_text())


def trace(log_dir: Path) -> Counter:
    """How often each run started, and ended in which state."""
    path = log_dir / "stubs" / "trace"
    return Counter(path.read_text().splitlines() if path.exists() else [])


@pytest.mark.slow
def test_a_search_finds_the_best_rate_prunes_and_leaves_ordinary_runs(tmp_path, capsys):
    assert search(tmp_path, trials=16, seeds=2) == 0
    result = found(tmp_path)
    states = Counter(trial["state"] for trial in result["trials"])
    assert states["complete"] + states["pruned"] == 16
    assert states["pruned"] >= 2
    best = result["best"]
    assert 0.06 < float(best["params"]["optimizer.lr"]) < 0.17
    assert best["value"] == min(trial["value"] for trial in result["trials"] if trial["state"] == "complete")
    assert best["value"] == pytest.approx(sum(best["values"]) / 2)
    assert result["command"] == f"python train.py optimizer.lr={best['params']['optimizer.lr']}"
    records = {path.name: read_record(path) for path in find_records(tmp_path / "stubs")}
    for trial in result["trials"]:
        if trial["state"] == "complete":
            assert [records[run].seed for run in trial["runs"]] == [1, 2]
            assert [records[run].metrics["val/err"] for run in trial["runs"]] == trial["values"]
    # The first five complete before any is pruned; a pruned one has one run, which an ordinary start would continue.
    assert [trial["state"] for trial in result["trials"][:5]] == ["complete"] * 5
    assert len(records) == 2 * states["complete"] + states["pruned"]
    assert all("search" not in record.config for record in records.values())
    assert {record.status for record in records.values()} <= {"finished", "running"}
    said = capsys.readouterr().out
    assert "pruned at step" in said
    assert f"command: {result['command']}" in said


@pytest.mark.slow
def test_a_search_in_sequence_is_the_same_each_time_and_another_seed_gives_another(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        assert search(tmp_path / name, trials=8, seeds=1, seed=int(name == "c")) == 0
    first, again, other = (found(tmp_path / name)["trials"] for name in ("a", "b", "c"))
    assert first == again
    assert first != other


@pytest.mark.slow
def test_more_trials_go_on_with_the_search_and_the_same_ones_train_nothing(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert search(tmp_path, trials=3, seeds=1) == search(tmp_path, trials=8, seeds=1) == 0
    before = trace(tmp_path)
    assert search(tmp_path, trials=8, seeds=1) == 0
    assert trace(tmp_path) == before
    assert search(whole, trials=8, seeds=1) == 0
    assert found(whole)["trials"] == found(tmp_path)["trials"]


@pytest.mark.slow
def test_a_killed_search_repeats_no_finished_run_and_ends_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    monkeypatch.setenv("STUB", '{"seconds": 0.1}')
    assert search(whole, trials=8, seeds=2) == 0
    arguments = f"Path({str(cut)!r}), trials=8, seeds=2"
    code = f"from pathlib import Path; from tests.sweeps.test_launch_command import search; search({arguments})"
    for runs_begun in (2, 5):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
        wait_for(lambda runs=runs_begun: sum(n for what, n in trace(cut).items() if "start" in what) >= runs, 60)
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert search(cut, trials=8, seeds=2) == 0
    assert found(cut)["trials"] == found(whole)["trials"]
    ends = {what: n for what, n in trace(cut).items() if what.startswith("finished")}
    assert set(ends.values()) == {1}
    started = Counter(what.split()[1] for what in trace(cut).elements() if what.startswith("start"))
    assert sum(started.values()) - len(started) <= 2  # the runs that a kill cut began again, and no others


@pytest.mark.slow
def test_what_a_kill_leaves_of_the_journal_is_repaired_and_other_damage_is_named(tmp_path):
    assert search(tmp_path, trials=2, seeds=1) == 0
    (journal,) = tmp_path.glob("stubs/sweep/search-*/search.journal")
    before = found(tmp_path)["trials"]
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    journal.with_name("search.journal.lock").symlink_to(journal)
    assert search(tmp_path, trials=3, seeds=1) == 0
    assert found(tmp_path)["trials"][:2] == before
    journal.write_text('{"op_code": 99}\n' + journal.read_text())
    with pytest.raises(InputError, match=r"search\.journal is damaged"):
        search(tmp_path, trials=3, seeds=1)


@pytest.mark.slow
def test_choices_are_tried_and_those_that_were_run_are_not_run_again(tmp_path):
    assert search(tmp_path, "optimizer.lr=0.01,0.1,0.3", trials=9, seeds=1) == 0
    result = found(tmp_path)
    assert {trial["params"]["optimizer.lr"] for trial in result["trials"]} <= {"0.01", "0.1", "0.3"}
    assert result["best"]["params"] == {"optimizer.lr": "0.1"}
    assert max(n for what, n in trace(tmp_path).items() if what.startswith("finished")) == 1


@pytest.mark.slow
def test_trials_that_diverge_count_at_chance_and_those_that_fail_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STUB", '{"diverges_above": 0.3, "fails_below": 0.01}')
    assert search(tmp_path, trials=10, seeds=1, pruner="none") == 1
    trials = found(tmp_path)["trials"]
    for trial in trials:
        lr = float(trial["params"]["optimizer.lr"])
        assert (trial["state"] == "fail") == (lr < 0.01)
        assert (trial["value"] == 90.0 and trial["num_diverged"] == 1) == (lr > 0.3)
    assert {trial["state"] for trial in trials} == {"complete", "fail"}
    assert any(trial["num_diverged"] for trial in trials)
    said = capsys.readouterr().out
    assert "1 of 1 runs diverged and count at chance" in said
    assert "planned" in said


@pytest.mark.slow
def test_several_trials_run_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB", '{"seconds": 0.3}')
    assert search(tmp_path, cores=3, trials=6, seeds=1, pruner="none") == 0
    assert [trial["state"] for trial in found(tmp_path)["trials"]] == ["complete"] * 6
    lines = (tmp_path / "stubs" / "trace").read_text().splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["start"] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("optimizer.lr=interval(1e-3,1)", "0.001 to 1.0, on a logarithmic scale"),
        ("optimizer.lr=interval(0.1,1)", "0.1 to 1.0"),
        ("optimizer.lr=tag(log,interval(0.1,1))", "0.1 to 1.0, on a logarithmic scale"),
        ("optimizer.lr=tag(linear,interval(1e-3,1))", "0.001 to 1.0"),
        ("data.batch_size=int(interval(16,64))", "16 to 64"),
        ("data.batch_size=range(16,65,16)", "16 to 64 in steps of 16"),
        ("optimizer.momentum=range(0.5,0.95,0.2)", "0.5 to 0.9 in steps of 0.2"),
        ("model=plain20,resnet20", "plain20, resnet20"),
        ("optimizer.nesterov=choice(true,false)", "True, False"),
    ],
)
def test_the_space_is_read_as_hydra_writes_it(words, said):
    (dimension,), fixed, notes = split(sweep_parts(parser().parse_overrides([words, "data=digits", "seed=1,2"]), {}))
    assert dimension.words() == said
    assert fixed == ["data=digits"]
    assert notes == ["seed=1,2 is left out: search.seeds says how often each configuration is run"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("data=digits", "a search needs a key with bounds"),
        ("optimizer.lr=interval(0,inf)", "needs finite bounds"),
        ("optimizer.lr=interval(1,1)", "the first bound must be below the second"),
        ("optimizer.lr=tag(log,interval(0,1))", "a logarithmic scale begins above 0"),
        ("optimizer.lr=tag(lgo,interval(0.1,1))", "lgo is not"),
        ("optimizer.lr=range(0,0)", "0 values"),
        ("search.trials=10,20", "give one value"),
    ],
)
def test_a_space_without_bounds_is_refused(words, reason):
    with pytest.raises(InputError, match=reason):
        split(sweep_parts(parser().parse_overrides([words]), {}))


@pytest.mark.parametrize(
    ("overrides", "objective", "reason"),
    [
        ((), "test/err", "no choice may read the test set"),
        ((), "train/err", "Did you mean val/err"),
        ((), "val/er", "Did you mean val/err"),
        (("data.val_size=0",), None, "the runs set no validation images aside"),
        (("rerun=true",), None, "a search repeats no run"),
        (("data.val_size=0", "data.num_folds=5", "data.fold=0"), None, ""),
        (("metrics=err_top5",), "val/err_top5", ""),
    ],
)
def test_the_objective_is_a_validation_metric(compose_config, overrides, objective, reason):
    config, keys = compose_config(*overrides), check_search({"objective": objective})
    if not reason:
        assert ask(config, (), keys).key == (objective or "val/err")
        return
    with pytest.raises(InputError, match=reason):
        ask(config, (), keys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("data=digits search.trials=3", "search.trials=3: without a search it means nothing"),
        ("hydra/sweeper=search optimizer.lr=interval(0.1,1)", "Type -m as well"),
        ("-m hydra/sweeper=search optimizer.lr=interval(0.1,1) hydra/launcher=slurm", "Leave hydra/launcher=pool"),
        ("-m hydra/sweeper=search optimizer.lr=interval(0.1,1) search.trials=0", "search.trials=0"),
        ("-m hydra/sweeper=search optimizer.lr=interval(0.1,1) search.pruner=medain", "Did you mean median"),
        ("-m hydra/sweeper=search optimizer.lr=interval(-1,1) data=digits", "optimizer.lr=-1.0: must be greater than"),
        ("-m hydra/sweeper=search data.batch_size=interval(1,9) data=digits", "data.batch_size"),
        ("-m hydra/sweeper=search experiment=quickstart model=plain20", "a search needs a key with bounds"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_a_few_lines(line, reason, tmp_path):
    code, said = answer(TRAIN.main, *line.split(), f"paths.log_dir={tmp_path}")
    assert code == 2
    assert reason in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 4
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_dry_search_says_what_it_would_do(tmp_path):
    line = "-m hydra/sweeper=search data=digits model=plain20,resnet20 dry_run=true search.trials=7 search.seeds=2"
    code, said = answer(TRAIN.main, *line.split(), f"paths.log_dir={tmp_path}")
    assert code == 0
    assert "model: plain20, resnet20" in said
    assert "val/err (lower is better), mean over 2 seeds; 7 trials, at most 14 runs" in said
    assert not list(tmp_path.iterdir())


def test_the_keys_of_a_search_are_no_part_of_a_run():
    tree = compose_tree("data=digits")
    assert tree["search"]["trials"] == 50
    assert "search" not in as_dict(check(tree))


@pytest.mark.slow
def test_a_search_of_real_runs_that_is_killed_goes_on(tmp_path):
    line = ["train.py", "-m", "hydra/sweeper=search", "data=digits", "model=resnet20", "model.depth=8", "logger=csv"]
    line += ["optimizer.lr=interval(1e-3,1)", "trainer=cpu", "trainer.max_steps=12", "trainer.val_every_steps=4"]
    line += ["search.trials=3", "search.seeds=1", f"paths.log_dir={tmp_path}", "hydra.launcher.jobs_per_device=1"]

    def finished() -> dict[str, str | None]:
        records = {path.name: read_record(path) for path in find_records(tmp_path)}
        return {name: each.finished_at for name, each in records.items() if each.is_done}

    before: dict[str, str | None] = {}
    for count in (1, 2):
        process = subprocess.Popen([sys.executable, *line], cwd=ROOT, stdout=subprocess.DEVNULL)
        wait_for(lambda count=count: len(finished()) >= count, 300)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert before.items() <= finished().items()
        before = finished()
    done = subprocess.run([sys.executable, *line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(finished()) == 3
    assert before.items() <= finished().items()
    assert "3 of 3 trials: 3 complete" in done.stdout
    assert "command: python train.py data=digits model=resnet20 model.depth=8 " in done.stdout
