"""A thousand generated command lines and a thousand altered files, against every command that reads them.

None ends in a traceback, takes more than 10 s or 2 GiB, overwrites anything, or is accepted although it is nonsense.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from depthlab.commands import data, evaluate, publish, report, status
from depthlab.config import hydra_keys
from depthlab.config.check import check
from depthlab.config.identity import find_key, flatten
from depthlab.config.schema import as_dict
from depthlab.data.image_files import decode
from depthlab.errors import InputError
from depthlab.records.checkpoints import list_checkpoints
from depthlab.records.publishing import publish as copy_runs
from depthlab.records.record import find_records, read_record
from depthlab.runs.evaluate import load_run
from depthlab.runs.run import run

from ..conftest import compose_tree
from ..records.test_checkpoints import sign
from ..typing_in import TRAIN, answer
from .test_malformed import contents, paths_of, replaced

pytestmark = pytest.mark.slow

Words = tuple[str, ...]
SECONDS = 10
MOST_BYTES = 2 * 2**30
AFTER_IMPORTS = 700 * 2**20
SHORT: Words = (
    "data=digits",
    "model=resnet20",
    "model.depth=8",
    "trainer=cpu",
    "trainer.num_threads=1",
    "logger=csv",
)
SHORT += ("trainer.max_steps=2", "trainer.val_every_steps=1", "logger.every_steps=1", "trainer.precision=32-true")


class TooSlow(BaseException):
    """Nothing of ours catches it."""


@contextmanager
def in_time() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """The memory that the test took beyond what the process had, as far as the system counts it.

    Other tests of the process before may have left it large. A fresh one has 0.7 GiB after its imports.
    """
    counter = Path("/proc/self/clear_refs")
    if not counter.exists():
        yield
        return
    counter.write_text("5")
    before = _memory("VmHWM")  # which that resets to what is in use
    yield
    assert _memory("VmHWM") - before < MOST_BYTES - AFTER_IMPORTS


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def said_by(main: Callable[[Sequence[str]], int], *arguments: str) -> tuple[int, str]:
    """The answer of a command, in time and without a traceback."""
    with in_time():
        code, said = answer(lambda: main(list(arguments)))
    assert "Traceback" not in said, said
    assert code in (0, 1, 2), (arguments, code, said)
    assert code == 0 or said.strip(), arguments
    assert all(line.isprintable() for line in said.splitlines()), (arguments, said)
    return code, said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    logs = tmp_path_factory.mktemp("logs")
    return run(check(compose_tree(*SHORT, f"paths.log_dir={logs}")), "python train.py").directory


# --- command lines ---


@pytest.fixture
def own_files_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a line without keys of `hydra` is compared with is composed once; it is the same for all of them."""
    compose, composed = hydra_keys._compose, []

    def once(loader: Any, overrides: Sequence[Any]) -> Any:
        if overrides:
            return compose(loader, overrides)
        if not composed:
            composed.append(compose(loader, overrides))
        return composed[0]

    monkeypatch.setattr(hydra_keys, "_compose", once)


FLAT = flatten(compose_tree(*SHORT))
NUMBERS = sorted(key for key, value in FLAT.items() if isinstance(value, int | float) and find_key(key, FLAT))
HUGE: Words = (
    "1e39",
    "-1e39",
    "1e308",
    "1e400",
    "nan",
    "-inf",
    str(10**18),
    str(10**30),
    "-7",
    "???",
    "${seed}",
    "1e-400",
)
ODD: Words = (
    "",
    "''",
    "null",
    "true",
    "-1",
    "0",
    "[1]",
    "{a:1}",
    "x",
    "'1 2'",
    "../..",
    "a/b",
    "\x1b[31m",
    "\u202e",
)
ODD += ("range(5,1)", "range(0,1e9)", "glob(*)", "1,2", "choice()", "extend_list(1)", "~", "${oc.env:HOME}")
ODD += ("_target_", "x" * 300, "\udcff")
GROUPS: Words = (
    "data",
    "model",
    "optimizer",
    "schedule",
    "task",
    "loss",
    "metrics",
    "callbacks",
    "trainer",
    "logger",
)
FLAGS: Words = (
    "-m",
    "--resolve",
    "-p",
    "--package",
    "--cfg",
    "--info",
    "-cn",
    "-cd",
    "--help",
    "--hydra-help",
    "--run",
    "-x",
)
FLAGS += ("--config-dir=/nowhere", "--multirun=1", "-mseed=1", "--experimental-rerun")


def command_line(draw: random.Random) -> tuple[list[str], bool]:
    """A command line, and whether it is nonsense beyond doubt."""
    kind = draw.randrange(10)
    if kind < 3:
        return [f"{draw.choice(NUMBERS)}={draw.choice(HUGE[:6])}"], True
    if kind < 5:
        return [f"{draw.choice(['', '+', '++'])}{draw.choice(sorted(FLAT))}={draw.choice(HUGE + ODD)}"], False
    if kind == 5:
        return [f"{draw.choice(sorted(FLAT))}x={draw.choice(ODD)}"], True
    if kind == 6:
        return [
            f"{draw.choice(['', '+', '~'])}{draw.choice(GROUPS)}={draw.choice([*ODD, 'nothing', 'resnet20'])}"
        ], False
    if kind == 7:
        return [draw.choice(FLAGS), f"seed={draw.choice(ODD)}"], False
    if kind == 8:
        return ["".join(draw.choice("seed=[](){}'\"\\,:~+@$\x00\x7f é1.") for _ in range(draw.randrange(1, 30)))], False
    return [
        f"hydra{draw.choice(['.', '/'])}{draw.choice(['launcher', 'sweeper', 'run.dir', 'x'])}={draw.choice(ODD)}"
    ], False


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("own_files_composed_once")
def test_a_thousand_command_lines(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw, logs, before = random.Random(1), finished.parent.parent, contents(finished.parent.parent)
    for _ in range(960):
        words, is_nonsense = command_line(draw)
        monkeypatch.setattr("depthlab.sweeps.launcher.launch", lambda *arguments: 0)
        lines = [*SHORT, f"paths.log_dir={logs}", "dry_run=true", *words]
        try:
            with in_time():
                code, said = answer(TRAIN.main, *lines)
        except BaseException:
            print(words)
            raise
        assert "Traceback" not in said, (words, said)
        assert code in (0, 1, 2), (words, code, said)
        assert code == 0 or said.strip(), words
        assert code != 0 or not is_nonsense, (words, said)
    for main in (status.main, report.main, evaluate.main, publish.main, data.show_batch):
        for word in ("--nothing", "/nowhere", "\udcff", "run=", "run=/dev/zero", "\x1b[31m", "--out", "x" * 5000):
            said_by(main, word)
    after = contents(logs)  # Hydra writes a file of its own for a sweep
    assert {name: after.get(name) for name in before} == before


# --- files ---

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    10**18,
    10**400,
    1e308,
    -1e308,
    "",
    "x" * 100_000,
    "\ud800",
    "\x1b[31m",
    "$\\undefined$",
    "$x^{",
]
VALUES += ["=HYPERLINK(1)", "# h\n![a](b)", "<script>", [], {}, [[]], {"a": {"b": [1]}}, [None] * 50, "../../x", "NaN"]


def altered_json(draw: random.Random, text: str) -> bytes:
    tree = json.loads(text)
    tree = replaced(tree, draw.choice(list(paths_of(tree))), draw.choice(VALUES))
    changed = json.dumps(tree)
    return changed.replace('"NaN"', draw.choice(["NaN", "1e999", "[" * 100_000])).encode()


def altered_bytes(draw: random.Random, whole: bytes) -> bytes:
    place = draw.randrange(len(whole))
    kind = draw.randrange(4)
    if kind == 0:
        return whole[:place]
    if kind == 1:
        return bytes(draw.randrange(256) for _ in range(draw.randrange(200)))
    flipped = whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]
    return flipped if kind == 2 else whole[:place] + whole[place // 2 :]


def alter_array(draw: random.Random, path: Path) -> None:
    arrays = dict(np.load(path))
    name = draw.choice(sorted(arrays))
    shape = arrays[name].shape
    kinds: list[Any] = [np.full(shape, np.nan), np.full(shape, np.inf), np.zeros(0), np.array(3), np.full(shape, -1)]
    kinds += [
        np.full(shape, 9999),
        np.full(shape, "$\\undefined$"),
        np.zeros((2, 3, 4)),
        np.full(shape, 1e300),
        np.zeros(shape, complex),
    ]
    np.savez(path, **{**arrays, name: draw.choice(kinds)})


def alter(draw: random.Random, directory: Path) -> str:
    """Alter one file of a run's directory; its name."""
    arrays = sorted((directory / "diagnostics").glob("*.npz"))
    kind = draw.choice(["record"] * 4 + ["array"] * 2 + ["bytes", "curve", "checkpoint", "progress"])
    if kind == "record":
        path = directory / "record.json"
        path.write_bytes(altered_json(draw, path.read_text()))
    elif kind == "array":
        path = draw.choice(arrays)
        alter_array(draw, path)
    elif kind == "curve":
        path = directory / "metrics.csv"
        cells = path.read_text().split(",")
        cells[draw.randrange(len(cells))] = (
            str(draw.choice([*VALUES, "1e999", "9" * 5000])).encode("utf-8", "replace").decode()
        )
        path.write_text(",".join(cells))
    elif kind == "progress":
        path = directory / "progress.json"
        path.write_bytes(altered_json(draw, json.dumps({"step": 1, "max_steps": 2, "value": 1.0, "title": "x"})))
    else:
        path = draw.choice([*directory.glob("*.*"), *arrays, *list_checkpoints(directory)])
        if kind == "checkpoint":
            path = list_checkpoints(directory)[0]
        path.write_bytes(altered_bytes(draw, path.read_bytes()))
        if kind == "checkpoint" and draw.random() < 0.7:
            sign(path)
    return f"{kind} {path.name}"


def read_by_every_command(directory: Path, altered: str, number: int) -> None:
    """The commands that read one run; the report reads many at once, below."""
    before, state = contents(directory), torch.random.get_rng_state()
    if not altered.startswith(("array", "curve", "progress")):  # which these do not read
        _load(directory, altered)
        if number % 5 == 0:
            said_by(evaluate.main, f"run={directory}")
    assert torch.equal(state, torch.random.get_rng_state())
    said_by(status.main, str(directory))
    with in_time():
        try:
            copy_runs(directory, directory.parent / "published", allow_dirty=True)
        except InputError as error:
            assert str(error), altered
    assert contents(directory) == before, altered


def _load(directory: Path, altered: str) -> None:
    with in_time():
        try:
            load_run(directory)
        except InputError as error:
            assert str(error), altered


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_files(finished: Path, tmp_path: Path, part: int) -> None:
    logs = tmp_path / "logs"
    for number in range(250):
        draw = random.Random(1000 * part + number)  # one of its own: how long a record is differs from run to run
        directory = logs / f"run{number:03d}" / finished.name
        shutil.copytree(finished, directory)
        _as_seed(directory, number)
        altered = alter(draw, directory)
        try:
            read_by_every_command(directory, altered, number)
        except BaseException:
            print(part, number, altered)
            raise
        if number % 25 == 24:
            _continue(directory)
    before = contents(logs)
    code, said = answer(lambda: report.main([str(logs), "--out", str(tmp_path / "report")]))
    assert code == 0, said
    assert all(line.isprintable() for line in said.splitlines()), said
    assert contents(logs) == before


def _as_seed(directory: Path, seed: int) -> None:
    """Make the copy a run of its own."""
    record = json.loads((directory / "record.json").read_text())
    record["seed"] = record["config"]["seed"] = seed
    (directory / "record.json").write_text(json.dumps(record))


def _continue(directory: Path) -> None:
    """Start the run of a directory again, as the same command would."""
    path = directory / "record.json"
    try:
        record = read_record(directory)
    except InputError:
        return
    values = record.to_dict() | {"status": "running", "steps": 1}
    path.write_text(json.dumps(values))
    tree = as_dict(check(compose_tree(*SHORT, f"seed={record.seed}", f"paths.log_dir={directory.parent.parent}")))
    tree["name"] = directory.parent.name
    with in_time():
        try:
            run(check(tree), "python train.py")
        except InputError as error:
            assert str(error)


@pytest.mark.parametrize("name", ["records.jsonl", "curves.csv.gz", "diagnostics.npz.xz"])
def test_altered_published_files(finished: Path, tmp_path: Path, name: str) -> None:
    copy_runs(finished, tmp_path / "whole", allow_dirty=True)
    draw = random.Random(zlib.crc32(name.encode()))
    for number in range(20):
        folder = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / name).write_bytes(altered_bytes(draw, (folder / name).read_bytes()))
        said_by(status.main, str(folder))
        for directory in find_records(folder):
            with in_time():
                try:
                    copy_runs(directory, tmp_path / "again" / str(number), allow_dirty=True)
                except InputError as error:
                    assert str(error)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "bmp", "webp"])
def test_altered_images(tmp_path: Path, suffix: str) -> None:
    draw, path = random.Random(suffix), tmp_path / f"image.{suffix}"
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 30, 3)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    for _ in range(40):
        path.write_bytes(altered_bytes(draw, whole))
        with in_time():
            try:
                assert decode(path, 16).shape == (16, 16, 3)
            except InputError as error:
                assert str(path) in str(error)
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208
