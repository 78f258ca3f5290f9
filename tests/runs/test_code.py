"""Code is part of what ran: what changes a fingerprint, and what a run of other code is answered with."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import depthlab
from depthlab.errors import InputError
from depthlab.records.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from depthlab.records.record import Record, read_record
from depthlab.runs import code as code_module
from depthlab.runs import run as run_module
from depthlab.runs.code import Code, code_of, find_unit, read_code, units_of
from depthlab.runs.evaluate import load_run
from depthlab.runs.run import run
from depthlab.runs.source import SourceCache

from ..conftest import ROOT, Compose
from ..whole_runs import SMALL, forget_the_end, install, results

BLOCKS = "depthlab/models/blocks.py"
NET = '''
"""A module."""
import torch
from torch import nn

class Net(nn.Module):
    """A network."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs."""
        # a comment
        return torch.nn.functional.gelu(x) + f"{x!r:>4}".count("a")
'''
SAME = {
    "comment": NET.replace("# a comment", "# another comment, longer"),
    "docstrings": NET.replace('"""A network."""', '"""Another text."""').replace('        """Outputs."""\n', ""),
    "formatting": NET.replace("gelu(x) + ", "gelu(\n            x,\n        ) + (").replace('"a")', "'a'))"),
}
OTHER = {
    "call": NET.replace("gelu", "relu"),
    "number": NET.replace("4}", "5}"),
    "name": NET.replace("class Net", "class Nett"),
    "text": NET.replace('count("a")', 'count("b")'),
    "none": NET.replace("        return ", "        None\n        return "),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that all tests share, and no other process of this user."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def digest(folder: Path, text: str) -> str:
    (folder / "net.py").write_text(text)
    return SourceCache(folder / "cache.json").read(folder / "net.py").digest


@pytest.mark.parametrize("change", SAME)
def test_comments_formatting_and_docstrings_change_no_digest(tmp_path: Path, change: str) -> None:
    assert SAME[change] != NET
    assert digest(tmp_path, SAME[change]) == digest(tmp_path, NET)


@pytest.mark.parametrize("change", OTHER)
def test_other_changes_do(tmp_path: Path, change: str) -> None:
    assert digest(tmp_path, OTHER[change]) != digest(tmp_path, NET)


def test_an_edit_is_noticed_whatever_the_clock_says(tmp_path: Path) -> None:
    path = tmp_path / "net.py"

    def read() -> str:
        sources = SourceCache(tmp_path / "cache.json")
        found = sources.read(path).digest
        sources.save()
        return found

    path.write_text(NET)
    os.utime(path, ns=(10**18, 10**18))
    before = read()
    path.write_text(NET.replace("gelu", "relu"))  # of the same length
    os.utime(path, ns=(10**18, 10**18))
    assert read() != before
    path.write_text(NET)
    os.utime(path, ns=(1, 1))
    assert read() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": [1, 2, 3]}', "\x00", "[" * 100_000])
def test_a_damaged_cache_is_made_again(tmp_path: Path, content: str) -> None:
    expected = digest(tmp_path, NET)
    (tmp_path / "cache.json").write_text(content)
    assert digest(tmp_path, NET) == expected


def test_a_file_that_is_no_python_counts_by_its_bytes(tmp_path: Path) -> None:
    assert digest(tmp_path, "def (:") != digest(tmp_path, "def (: ")
    assert SourceCache(None).read(tmp_path / "missing.py").digest == "unreadable"


def test_covered_is_what_the_run_imports_and_no_more(compose_config: Compose) -> None:
    files = set(code_of(compose_config("model=plain20")).files)
    wanted = "models/blocks models/resnet models/components/cifar optim/schedules training/module data/augment"
    wanted += " tasks/components/classification runs/fit config/schema records/checkpoints training/plan"
    assert {f"depthlab/{name}.py" for name in wanted.split()} <= files
    rooms = {name.split("/")[1] for name in files}
    assert rooms == {"config", "data", "models", "optim", "records", "runs", "tasks", "training"}
    unused = "models/densely_connected models/components/densenet optim/components/adamw records/journal errors"
    assert not {f"depthlab/{name}.py" for name in unused.split()} & files
    dense = set(code_of(compose_config("model=densenet121", "optimizer=adamw")).files)
    assert {"depthlab/models/densely_connected.py", "depthlab/optim/components/adamw.py"} <= dense - files


def test_no_covered_module_imports_another_by_a_string(compose_config: Compose) -> None:
    """The fingerprint follows import statements. The registry's components are known without."""
    found = []
    for name in code_of(compose_config()).files:
        tree = ast.parse((ROOT / "src" / name).read_text())
        calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if any(call.endswith(("import_module", "__import__")) for call in calls):
            found.append(name)
    assert sorted(found) == ["depthlab/config/registry.py", "depthlab/models/__init__.py"]


def test_a_fingerprint_takes_less_than_50_ms_and_no_torch() -> None:
    program = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "src")!r})
from depthlab.runs.code import RUN, read_code
roots = (RUN, "depthlab.models.components.cifar")
first = read_code(roots)
before = time.process_time()
assert read_code(roots) == first and len(first.files) > 50
print(time.process_time() - before, *({{"torch", "lightning", "hydra"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    assert float(seconds) < 0.05


# Extensions.


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on Python's path."""
    monkeypatch.syspath_prepend(tmp_path)
    code_module._is_library.cache_clear()
    yield tmp_path
    code_module._is_library.cache_clear()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_an_extension_is_covered_whole_and_so_is_what_it_imports(place: Path) -> None:
    write(place / "lab_x" / "__init__.py", "")
    write(place / "lab_x" / "spec.py", "def build():\n    from lab_y.deep import net\n    import numpy, json\n")
    write(place / "lab_x" / "never_imported.py", "a = 1\n")
    write(place / "lab_x" / "kernel.cu", "int a;\n")
    write(place / "lab_x" / "notes.txt", "not source\n")
    write(place / "lab_y" / "__init__.py", "")
    write(place / "lab_y" / "deep" / "net.py", "import depthlab.models.restorer\n")
    write(place / "lab_z.py", "unrelated = True\n")
    before = read_code(["lab_x.spec"])
    others = {f"lab_x/{name}" for name in ("__init__.py", "spec.py", "never_imported.py", "kernel.cu")}
    assert others | {"lab_y/deep/net.py", "depthlab/models/restorer.py"} <= set(before.files)
    assert {name.split("/")[0] for name in before.files} == {"lab_x", "lab_y", "depthlab"}
    assert {unit.name for unit in units_of(["lab_x.spec"])} == {"lab_x", "lab_y"}
    write(place / "lab_y" / "deep" / "net.py", "import depthlab.models.restorer\nwidth = 2\n")
    assert read_code(["lab_x.spec"]).differences(before.as_dict()) == ["lab_y/deep/net.py"]


def test_a_package_inside_a_namespace_is_a_unit_of_its_own(place: Path) -> None:
    write(place / "company_x" / "lab" / "__init__.py", "")
    write(place / "company_x" / "lab" / "net.py", "a = 1\n")
    write(place / "company_x" / "other" / "net.py", "a = 1\n")
    unit = find_unit("company_x.lab.net")
    assert unit is not None
    assert (unit.name, unit.path) == ("company_x.lab", place / "company_x" / "lab")
    assert [name for name, _ in unit.files()] == ["company_x/lab/__init__.py", "company_x/lab/net.py"]
    assert find_unit("no_such_module_x") is None


# Records, and what a run of other code is answered with.

CODE = Code({"depthlab/models/blocks.py": "aaaa", "mylab/net.py": "bbbb"})


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (None, []),
        (CODE.as_dict(), []),
        ({"fingerprint": CODE.fingerprint, "diff": "code.diff"}, []),
        (Code({"depthlab/models/blocks.py": "aaab"}).as_dict(), ["depthlab/models/blocks.py", "mylab/net.py"]),
        ({"fingerprint": "0"}, ["not known: the record has a fingerprint without the files"]),
        ({}, ["not known: the record's fingerprint cannot be read"]),
        ({"fingerprint": 5}, ["not known: the record's fingerprint cannot be read"]),
        ({**CODE.as_dict(), "files": {"a.py": "1"}}, ["not known: the record's fingerprint cannot be read"]),
        ({**CODE.as_dict(), "files": {"a.py": 1}}, ["not known: the record's fingerprint cannot be read"]),
        ({**CODE.as_dict(), "files": ["a.py"]}, ["not known: the record's fingerprint cannot be read"]),
    ],
)
def test_what_differs_from_a_record_is_named(recorded: Any, expected: list[str]) -> None:
    assert CODE.differences(recorded) == expected


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the runs that follow believe that the blocks were edited."""

    def edited(config: Any) -> Code:
        return Code({**code_of(config).files, BLOCKS: "edited"})

    return lambda: monkeypatch.setattr(run_module, "code_of", edited)


def change_record(directory: Path, **values: Any) -> None:
    record = json.loads((directory / "record.json").read_text())
    (directory / "record.json").write_text(json.dumps({**record, **values}))


def test_a_record_and_each_checkpoint_say_which_code_they_are_of(compose_config: Compose) -> None:
    config = compose_config(*SMALL)
    directory = run(config, "").directory
    record, expected = read_record(directory), code_of(config).as_dict()
    assert record.code is not None
    assert {key: record.code[key] for key in expected} == expected
    assert record.segments[0].code is not None
    assert record.segments[0].code["fingerprint"] == expected["fingerprint"]
    assert load_checkpoint(list_checkpoints(directory)[0])["code"] == expected


def test_a_finished_run_of_other_code_is_not_passed_off_as_this_one(
    compose_config: Compose, edit: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(compose_config(*SMALL), "").directory
    before = (directory / "record.json").read_bytes()
    edit()
    with pytest.raises(InputError) as caught:
        run(compose_config(*SMALL), "")
    assert str(caught.value).splitlines() == [
        f"{directory}: this run finished with other code than the present one.",
        f"  differs: {BLOCKS}",
        "code=any takes it as it is; rerun=true moves it into .aside and repeats it.",
    ]
    assert (directory / "record.json").read_bytes() == before
    assert "(already finished)" in run(compose_config(*SMALL, "code=any"), "").line
    assert f"accepted (code=any): {BLOCKS}" in capsys.readouterr().out
    assert "(already finished)" not in run(compose_config(*SMALL, "rerun=true"), "").line
    assert "(already finished)" in run(compose_config(*SMALL), "").line
    capsys.readouterr()
    load_run(directory)  # by the code that there is in truth
    assert capsys.readouterr() == ("", f"The code differs from the run's: {BLOCKS}.\n")


def test_a_continuation_with_other_code_is_refused(
    compose_config: Compose, edit: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    saving = (*SMALL, "checkpoint.every_steps=6")
    directory = run(compose_config(*saving), "").directory
    expected = results(directory)
    forget_the_end(directory, 6)
    edit()
    with pytest.raises(InputError, match=r"was trained up to step 12 with other code") as caught:
        run(compose_config(*saving), "")
    assert "code=any goes on with the present code; rerun=true moves it" in str(caught.value)
    run(compose_config(*saving, "code=any"), "")
    assert f"goes on with other code than before (code=any): {BLOCKS}" in capsys.readouterr().out
    assert results(directory) == expected
    first, second = (segment.code for segment in read_record(directory).segments)
    assert first != second


def test_the_code_of_a_checkpoint_counts_where_the_record_says_another(
    compose_config: Compose, edit: Callable[[], None]
) -> None:
    """A continuation that was accepted wrote its record, and was killed before its first checkpoint."""
    saving = (*SMALL, "checkpoint.every_steps=6")
    directory = run(compose_config(*saving), "").directory
    forget_the_end(directory, 6)
    state = load_checkpoint(list_checkpoints(directory)[0])
    save_checkpoint(directory, 6, {**state, "code": Code({BLOCKS: "third"}).as_dict()})
    with pytest.raises(InputError, match="with other code than the present one"):
        run(compose_config(*saving), "")


def test_rerun_repeats_an_unfinished_run_of_other_code_and_what_came_to_nothing_starts_again(
    compose_config: Compose, edit: Callable[[], None]
) -> None:
    directory = run(compose_config(*SMALL, "checkpoint.every_steps=6"), "").directory
    forget_the_end(directory, 6)
    edit()
    run(compose_config(*SMALL, "rerun=true"), "")
    assert len(read_record(directory).segments) == 1
    assert len(list((directory.parent / ".aside").iterdir())) == 1
    change_record(directory, status="failed", code=Code({}).as_dict())
    shutil.rmtree(directory / "checkpoints")
    assert run(compose_config(*SMALL), "").status == "finished"


def test_a_record_from_before_is_treated_as_ever_and_that_is_said(
    compose_config: Compose, edit: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(compose_config(*SMALL), "").directory
    values = read_record(directory).to_dict()
    del values["code"], values["stretches"][0]["code"]
    (directory / "record.json").write_text(json.dumps(values))
    edit()
    assert "(already finished)" in run(compose_config(*SMALL), "").line
    assert capsys.readouterr().out.count("its record is from before code was recorded") == 1


def test_a_fingerprint_that_cannot_be_read_is_no_reason_to_believe_a_record(compose_config: Compose) -> None:
    directory = run(compose_config(*SMALL), "").directory
    change_record(directory, code={"fingerprint": {"a": 1}})
    with pytest.raises(InputError, match="the record's fingerprint cannot be read"):
        run(compose_config(*SMALL), "")
    change_record(directory, code="c0de")
    with pytest.raises(InputError, match="code is of the wrong type"):
        run(compose_config(*SMALL), "")


def test_a_run_that_was_renamed_or_copied_by_hand_is_not_another(compose_config: Compose) -> None:
    first = run(compose_config(*SMALL, "seed=1"), "").directory
    second = run(compose_config(*SMALL, "seed=2", "dry_run=true"), "").directory
    shutil.copytree(first, second)
    with pytest.raises(InputError, match=f"holds the record of '{first.name}': it was copied or renamed by hand"):
        run(compose_config(*SMALL, "seed=2"), "")
    elsewhere = first.parent.parent / "other" / first.name
    shutil.copytree(first, elsewhere)  # the same run in another folder
    assert "(already finished)" in run(compose_config(*SMALL, "seed=1", "name=other"), "").line


def test_another_process_of_a_run_refuses_other_code_than_the_first(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(run_module.FINGERPRINT, "other")
    with pytest.raises(InputError, match="code was changed while the processes of this run were started"):
        run(compose_config(*SMALL), "")


# Through the real command line.


class Clone:
    """A copy of what runs, under git, with an outside package beside it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.site, self.logs = folder / "clone", folder / "site", folder / "logs"
        for name in ("src", "configs"):
            shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for name in (".gitignore", "train.py", "scripts/evaluate.py"):
            write(self.root / name, (ROOT / name).read_text())
        install(self.site)
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("commit", "-qm", "one")

    def git(self, *arguments: str) -> str:
        words = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
        return subprocess.run(words, cwd=self.root, check=True, capture_output=True, text=True).stdout

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.root / "src"), str(self.site)])
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def train(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        short = ("trainer=cpu", "trainer.num_threads=1", "trainer.max_steps=4", "trainer.val_every_steps=2")
        return self.call("train.py", *short, "logger=csv", f"paths.log_dir={self.logs}", *overrides)

    def edit(self, name: str, old: str, new: str) -> None:
        path = (self.site if name.startswith("mylab") else self.root / "src") / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_edit_of_our_code_and_of_an_extension_through_the_command_line(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    assert Path(depthlab.__path__[0]) != clone.root / "src" / "depthlab"
    ours = ("data=digits", "model=plain20", "model.depth=8")
    theirs = ("data=digits", "model=mixer", "model.patch=4", "name=theirs")
    for line in (ours, theirs):
        done = clone.train(*line)
        assert done.returncode == 0, done.stderr
    (directory,) = (clone.logs / "runs").glob("digits-*")
    assert read_record(directory).git == {"commit": clone.git("rev-parse", "HEAD").strip(), "dirty": False}
    assert not (directory / "code.diff").exists()

    clone.edit(BLOCKS, "class BasicBlock", "# only a comment\n\n\nclass BasicBlock")
    assert "(already finished)" in clone.train(*ours).stdout

    clone.edit(BLOCKS, "F.relu(", "F.gelu(")
    clone.edit("mylab/mixer_net.py", "GELU", "ReLU")
    for line, file in ((ours, BLOCKS), (theirs, "mylab/mixer_net.py")):
        refused = clone.train(*line)
        assert refused.returncode == 2
        assert f"differs: {file}\n" in refused.stderr or f"differs: {BLOCKS}, {file}\n" in refused.stderr
        assert "code=any takes it as it is; rerun=true" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert len(refused.stderr.splitlines()) == 3
    assert clone.train(*ours, "code=any").returncode == 0
    swept = clone.train(*ours, "-m", "seed=1,2,3")
    assert swept.returncode == 2
    assert "1 of 3 runs were made by other code; nothing was started." in swept.stderr
    assert len(list((clone.logs / "runs").glob("digits-*"))) == 1
    evaluated = clone.call("scripts/evaluate.py", f"run={directory}", "--json")
    assert evaluated.stderr.count(f"The code differs from the run's: {BLOCKS}.") == 1
    assert json.loads(evaluated.stdout)["metrics"]

    write(clone.root / "src" / "depthlab_extensions" / "mine.py", "width = 3\n")
    assert clone.train(*ours, "rerun=true").returncode == 0
    record: Record = read_record(directory)
    assert record.git is not None and record.code is not None
    assert (record.git["dirty"], record.code["diff"]) == (True, "code.diff")
    diff = (directory / "code.diff").read_text()
    assert "\n-        f = self.drop_path(self.bn2(self.conv2(F.relu(" in diff
    assert "\n+        f = self.drop_path(self.bn2(self.conv2(F.gelu(" in diff
    assert "+++ b/src/depthlab_extensions/mine.py\n@@ -0,0 +1,1 @@\n+width = 3\n" in diff
    clone.git("stash", "-uq")
    (tmp_path / "code.diff").write_text(diff)
    clone.git("apply", str(tmp_path / "code.diff"))
    assert "F.gelu(" in (clone.root / "src" / BLOCKS).read_text()
    assert (clone.root / "src" / "depthlab_extensions" / "mine.py").read_text() == "width = 3\n"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_edit_in_the_middle_of_a_sweep_changes_nothing_in_it(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    line = ("data=digits", "model=plain20", "model.depth=8")
    assert clone.train(*line, "seed=2", "name=alone").returncode == 0
    sweep = (*line, "trainer.max_steps=40", "-m", "seed=1,2", "hydra.launcher.jobs_per_device=1")
    short = ("trainer=cpu", "trainer.num_threads=1", "trainer.val_every_steps=2", "logger=csv")
    words = [sys.executable, "train.py", *short, f"paths.log_dir={clone.logs}", *sweep]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(clone.root / "src")}
    with subprocess.Popen(words, cwd=clone.root, env=environment, stdout=subprocess.PIPE, text=True) as launcher:
        until = time.monotonic() + 120
        while not list(clone.logs.glob("runs/*seed1*/record.json")) and launcher.poll() is None:
            assert time.monotonic() < until, "the first job did not start"
            time.sleep(0.02)
        clone.edit(BLOCKS, "F.relu(", "F.gelu(")
        write(clone.root / "src" / "depthlab_extensions" / "late.py", "raise RuntimeError('not of this sweep')\n")
        assert launcher.stdout is not None
        said = launcher.stdout.read()
    assert launcher.returncode == 0, said
    records = [read_record(path.parent) for path in sorted(clone.logs.glob("runs/*/record.json"))]
    alone = read_record(next((clone.logs / "alone").glob("digits-*")))
    assert [(record.seed, record.git, record.code) for record in records] == [
        (seed, alone.git, alone.code) for seed in (1, 2)
    ]
    assert not list(clone.logs.glob("runs/sweep/*/code"))  # the sweep is done
    again = subprocess.run(words, cwd=clone.root, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "2 of 2 runs were made by other code; nothing was started." in again.stderr
    assert f"plain8 seed 1 and 1 more; differs: {BLOCKS}" in again.stderr
