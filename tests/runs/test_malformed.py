"""Two hundred generated malformed inputs: none ends in a traceback, none in success, none overwrites anything.

Most go through the entry functions in this process; a sample goes through the real command line.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from depthlab.config.check import check
from depthlab.config.identity import find_key, flatten
from depthlab.data.sources import read_cifar10, read_mnist
from depthlab.errors import InputError
from depthlab.records.checkpoints import list_checkpoints
from depthlab.runs import process as job
from depthlab.runs.run import run

from ..conftest import Command, compose_tree, load_script
from ..data.official import CIFAR_BATCHES, MNIST_FILES, accept, write_cifar10, write_mnist
from ..records.test_checkpoints import sign
from ..typing_in import TRAIN, answer

pytestmark = pytest.mark.slow

TREE = compose_tree("data=digits", "model=resnet20", "model.depth=8", "trainer=cpu", "logger=csv")
FLAT = flatten(TREE)
SHORT = ("data=digits", "model=resnet20", "model.depth=8", "trainer=cpu", "logger=csv", "trainer.max_steps=2")
WORDS = st.from_regex(r"[a-z]{2,9}x", fullmatch=True)  # never true, null, nan or a number
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def examples(number: int) -> Callable[[Any], Any]:
    """That many inputs, the same ones every time."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # to shrink a failing input would take minutes
    )


EVALUATE, REPORT, STATUS = (load_script(f"scripts/{name}.py") for name in ("evaluate", "report", "status"))


def contents(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its sum; locks are no content."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_refused(main: Callable[[], int], *arguments: str, untouched: Path) -> str:
    """It ends with a message and a code that is not 0, and every file is as it was."""
    before = contents(untouched)
    code, said = answer(main, *arguments)
    assert code != 0, said
    assert said.strip()
    assert "Traceback" not in said
    assert contents(untouched) == before
    return said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log folder of one finished run."""
    logs = tmp_path_factory.mktemp("logs")
    assert run(check(compose_tree(*SHORT, "trainer.num_threads=1", f"paths.log_dir={logs}")), "").status == "finished"
    return logs


@contextmanager
def copy_of(logs: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of the log folder for one example, and its run."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name, "logs")
        shutil.copytree(logs, copy)
        (directory,) = (path.parent for path in copy.rglob("record.json"))
        yield copy, directory


# --- overrides ---

NUMBERS = [key for key, value in FLAT.items() if isinstance(value, int | float)]
KEYS = {key: info for key in FLAT if (info := find_key(key, FLAT)) is not None}
RANGED = [key for key in NUMBERS if key in KEYS and (KEYS[key].positive or KEYS[key].minimum is not None)]
CHOICES = [key for key, info in KEYS.items() if info.choices is not None]
UNKNOWN = st.sampled_from(sorted(FLAT)).flatmap(lambda key: st.sampled_from([f"{key}x", f"x{key}", f"{key}.x"]))
OVERRIDES = st.one_of(
    st.builds("{}={}".format, UNKNOWN, st.integers() | WORDS),
    st.builds("+{}={}".format, UNKNOWN, WORDS),
    st.builds("{}={}".format, st.sampled_from(NUMBERS), WORDS),
    st.builds("{}=-{}".format, st.sampled_from(RANGED), st.integers(1)),
    st.builds("{}={}".format, st.sampled_from(NUMBERS), st.integers(2**63)),
    st.builds("{}={}".format, st.sampled_from(NUMBERS), st.sampled_from(["inf", "nan", "[1,2]", "{a:1}", "'1 2'"])),
    st.builds("{}={}".format, st.sampled_from(CHOICES), WORDS),
    st.builds("{}=${{{}}}".format, st.sampled_from(sorted(FLAT)), WORDS),
    st.builds("{}={}".format, st.sampled_from(["model", "data", "optimizer", "experiment", "hydra/launcher"]), WORDS),
    st.builds("{}={}{}".format, st.sampled_from(sorted(FLAT)), st.sampled_from("[({'\""), WORDS),
    st.builds("name={}".format, st.sampled_from(["../x", "a/b", ".x", "a b", "''", "x\x07"])),
    st.text(st.characters(exclude_characters="=\0", exclude_categories=["Cs"]), min_size=1).filter(
        lambda text: text[0] not in "-~"
    ),
)


@examples(60)
@given(override=OVERRIDES)
def test_overrides(finished: Path, override: str) -> None:
    logs = f"paths.log_dir={finished}"
    assert_refused(TRAIN.main, *SHORT, logs, "dry_run=true", override, untouched=finished)


# --- configuration files ---


def replaced(tree: Any, path: Sequence[Any], value: Any) -> Any:
    """A copy of plain data with something else at `path`."""
    copy = json.loads(json.dumps(tree))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


def paths_of(tree: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value, groups of values included."""
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(tree, dict):
        items = iter(tree.items())
    elif isinstance(tree, list):
        items = iter(enumerate(tree))
    for key, value in items:
        yield (*prefix, key)
        yield from paths_of(value, (*prefix, key))


def cut(text: str) -> st.SearchStrategy[str]:
    """A part of the text from its start, never all of it."""
    return st.integers(0, len(text) - 1).map(lambda length: text[:length])


def frozen_files() -> st.SearchStrategy[str]:
    """Frozen configurations of which something is missing, unknown or of another kind."""
    scalars = [path for path in paths_of(TREE) if not isinstance(path[-1], int)]
    texts = st.one_of(
        st.builds(lambda path, value: replaced(TREE, path, value), st.sampled_from(scalars), st.just({"x": [1]})),
        st.builds(
            lambda path, word: replaced(TREE, [*path[:-1], f"{path[-1]}x"], word), st.sampled_from(scalars), WORDS
        ),
        JSON,
    ).map(lambda tree: json.dumps({"command": "python train.py", "config": tree}))
    whole = json.dumps({"command": "python train.py", "config": TREE})
    return st.one_of(texts, JSON.map(json.dumps), cut(whole), st.text(max_size=20))


@examples(30)
@given(text=frozen_files())
def test_frozen_configurations(finished: Path, text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "frozen.json")
        path.write_text(text, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job, "prepare_streams", lambda: None)  # what is said goes to no file here
            assert_refused(job.main, str(path), untouched=finished)


YAML = st.one_of(
    st.builds("# @package _global_\n{}: 1\n".format, UNKNOWN.map(lambda key: key.replace(".", "_"))),
    st.builds(
        "# @package _global_\noptimizer: {}\n".format, st.sampled_from(["{lr: fast}", "{lrr: 1}", "[", "{lr: ["])
    ),
    st.builds(
        "# @package _global_\ndefaults: {}\n".format, st.sampled_from(["[x]", "5", "[{model: nothing}]", "{a: b}"])
    ),
    st.builds("# @package _global_\n{}: {}\n".format, st.sampled_from(["model", "data", "trainer"]), WORDS),
    st.builds(
        "# @package _global_\nseed: {}\n".format,
        st.sampled_from(["!!python/name:os.system", "*x", "${x}", "1\n\tb: 2"]),
    ),
    st.builds("- {}\n".format, WORDS),
    WORDS,
)


@examples(20)
@given(text=YAML)
def test_files_of_the_configuration(finished: Path, text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "experiment", "broken.yaml")
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        typed_words = ("--config-dir", name, *SHORT, "+experiment=broken", f"paths.log_dir={finished}", "dry_run=true")
        assert_refused(TRAIN.main, *typed_words, untouched=finished)


# --- records ---

REQUIRED = ("version", "status", "name", "seed", "command", "config", "model", "data", "metrics", "steps")


def spoilt(draw: Callable[[Any], Any], record: Any) -> str:
    """The text of a record that cannot be one."""
    text = json.dumps(record)
    kind = draw(st.sampled_from(["cut", "replaced", "another", "bytes"]))
    if kind == "cut":
        return str(draw(cut(text)))
    if kind == "replaced":
        return json.dumps(replaced(record, [draw(st.sampled_from(REQUIRED))], [None]))
    return json.dumps(draw(JSON)) if kind == "another" else str(draw(st.text(max_size=20)))


@examples(20)
@given(data=st.data())
def test_records(finished: Path, data: st.DataObject) -> None:
    with copy_of(finished) as (logs, directory):
        path = directory / "record.json"
        path.write_text(spoilt(data.draw, json.loads(path.read_text())), encoding="utf-8")
        assert_refused(EVALUATE.main, f"run={directory}", untouched=logs)
        assert_refused(REPORT.main, str(logs), untouched=logs)
        same_line = (*SHORT, "trainer.num_threads=1", f"paths.log_dir={logs}")
        assert_refused(TRAIN.main, *same_line, untouched=logs)


@examples(60)
@given(data=st.data())
def test_records_in_which_any_value_is_another_are_used_or_refused(finished: Path, data: st.DataObject) -> None:
    with copy_of(finished) as (logs, directory):
        path = directory / "record.json"
        record = json.loads(path.read_text())
        record = replaced(record, data.draw(st.sampled_from(list(paths_of(record)))), data.draw(JSON))
        path.write_text(json.dumps(record), encoding="utf-8")
        before = contents(logs)
        code, said = answer(EVALUATE.main, f"run={directory}")
        assert code in (0, 1, 2)
        assert (code == 2) == said.startswith("error: ")
        assert contents(logs) == before
        with tempfile.TemporaryDirectory() as out:
            code, said = answer(REPORT.main, str(logs), "--out", out)
        assert code in (0, 2)
        assert (code == 2) == said.startswith("error: ")
        assert answer(STATUS.main, str(logs))[0] == 0
        assert contents(logs) == before


# --- checkpoints ---


def spoil_bytes(draw: Callable[[Any], Any], path: Path) -> None:
    whole = path.read_bytes()
    if draw(st.booleans()):
        path.write_bytes(whole[: draw(st.integers(0, len(whole) - 1))])
    else:
        place = draw(st.integers(0, 8 * len(whole) - 1))
        path.write_bytes(whole[: place // 8] + bytes([whole[place // 8] ^ 1 << place % 8]) + whole[place // 8 + 1 :])


@examples(15)
@given(data=st.data())
def test_damaged_checkpoints(finished: Path, data: st.DataObject) -> None:
    with copy_of(finished) as (logs, directory):
        spoil_bytes(data.draw, list_checkpoints(directory)[0])
        assert_refused(EVALUATE.main, f"run={directory}", untouched=logs)


PLAIN = st.none() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.integers(), max_size=2) | st.just({"a": 1})


@examples(15)
@given(data=st.data())
def test_forged_checkpoints_of_something_else(finished: Path, data: st.DataObject) -> None:
    with copy_of(finished) as (logs, directory):
        path = list_checkpoints(directory)[0]
        content = torch.load(path, weights_only=True)
        if data.draw(st.booleans()):
            content["network"] = data.draw(PLAIN)
        else:
            name = data.draw(st.sampled_from(list(content["network"])))
            content["network"][name] = data.draw(PLAIN | st.just(torch.zeros(1, 2, 3)))
        torch.save(content, path)
        sign(path)
        assert_refused(EVALUATE.main, f"run={directory}", untouched=logs)


@examples(10)
@given(data=st.data())
def test_forged_checkpoints_to_continue_from(finished: Path, data: st.DataObject) -> None:
    with copy_of(finished) as (logs, directory):
        record = json.loads((directory / "record.json").read_text())
        (directory / "record.json").write_text(json.dumps({**record, "status": "running", "steps": 1}))
        path = list_checkpoints(directory)[0]
        content = {**torch.load(path, weights_only=True), "step": 1}
        key = data.draw(st.sampled_from(["optimizer", "random", "train_totals", "log", "step"]))
        content[key] = data.draw(PLAIN.filter(lambda value: value != content["step"]))
        path = path.rename(path.with_name("step-00000001.ckpt"))
        torch.save(content, path)
        sign(path)
        before = path.read_bytes()
        code, said = answer(TRAIN.main, *SHORT, "trainer.num_threads=1", f"paths.log_dir={logs}")
        assert "Traceback" not in said
        assert (code == 0) == ("the run starts again from step 0" in said)  # from the start, as there is none
        assert not path.exists() or path.read_bytes() == before


# --- data files ---


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data")
    write_cifar10(folder)
    write_mnist(folder)
    with pytest.MonkeyPatch.context() as patch:
        accept(patch, folder)
        yield folder


@examples(20)
@given(data=st.data())
def test_data_files(small_data: Path, data: st.DataObject) -> None:
    read, folder, names = data.draw(
        st.sampled_from(
            [
                (read_cifar10, "cifar-10-batches-py", [*CIFAR_BATCHES, "batches.meta"]),
                (read_mnist, "MNIST/raw", MNIST_FILES),
            ]
        )
    )
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name, "data")
        shutil.copytree(small_data, copy)
        spoil_bytes(data.draw, copy / folder / data.draw(st.sampled_from(names)))
        before = contents(copy)
        with pytest.raises(InputError, match="cut short or altered"):
            read(copy)
        assert contents(copy) == before


# --- the real command line ---


@pytest.mark.parametrize(
    "override", ["seed=[1", "model.depth=1e400", "optimizer.lr={a:1}", "name=a/b", "\u2603", "seed=${x}"]
)
def test_a_sample_through_the_real_command_line(command: Command, tmp_path: Path, override: str) -> None:
    done = command("train.py", *SHORT, f"paths.log_dir={tmp_path}", override)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_through_the_real_command_lines(command: Command, finished: Path) -> None:
    with copy_of(finished) as (logs, directory):
        (directory / "record.json").write_text('{"version": 1}')
        before = contents(logs)
        for words in (
            ["train.py", *SHORT, "trainer.num_threads=1", f"paths.log_dir={logs}"],
            ["scripts/evaluate.py", f"run={directory}"],
            ["scripts/report.py", str(logs)],
        ):
            done = command(*words)
            assert done.returncode == 2
            assert "Traceback" not in done.stderr
        with suppress(FileNotFoundError):
            shutil.rmtree(logs / "report")
        assert contents(logs) == before
