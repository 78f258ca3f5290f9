"""Checkpoints: the last two, whole or not at all, and nothing wrong is ever loaded."""

from __future__ import annotations

import hashlib
import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from depthlab.errors import InputError
from depthlab.records import checkpoints
from depthlab.records.checkpoints import (
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    remove_checkpoint,
    save_checkpoint,
    state_sha256,
)


def content(step: int, size: int = 100) -> dict[str, Any]:
    return {"step": step, "network": {"weight": torch.full((size,), float(step))}, "log": {"latest": {"a": 0.5}}}


def sign(path: Path) -> None:
    """Write the sum that fits the file, as a forger would."""
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, content(7))
    loaded = load_checkpoint(path)
    assert path == checkpoint_path(tmp_path, 7)
    assert (loaded["step"], loaded["log"]) == (7, {"latest": {"a": 0.5}})
    assert torch.equal(loaded["network"]["weight"], torch.full((100,), 7.0))


def test_the_last_two_are_kept_and_the_newest_comes_first(tmp_path: Path) -> None:
    for step in (9, 10, 200, 3000):
        save_checkpoint(tmp_path, step, content(step))
    assert [load_checkpoint(path)["step"] for path in list_checkpoints(tmp_path)] == [3000, 200]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4  # each with its sum


def test_a_damaged_newest_one_makes_way_and_takes_no_place_of_those_that_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (10, 20):
        save_checkpoint(tmp_path, step, content(step))
    newest = list_checkpoints(tmp_path)[0]
    newest.write_bytes(b"cut")
    left_by_a_kill = newest.with_name(f".{newest.name}.123.tmp")
    left_by_a_kill.write_bytes(b"half")
    assert load_newest(tmp_path, tidy=False) is not None  # whoever only reads leaves everything as it is
    assert newest.exists()
    loaded = load_newest(tmp_path, tidy=True)
    assert loaded is not None
    assert loaded["step"] == 10
    assert "Going on from the checkpoint before, of step 10." in capsys.readouterr().out
    assert newest.with_name(f"{newest.name}.damaged").read_bytes() == b"cut"
    assert not left_by_a_kill.exists()
    assert not newest.with_name(f"{newest.name}.sha256").exists()  # nothing is left that it could be the sum of
    save_checkpoint(tmp_path, 12, content(12))
    assert [load_checkpoint(path)["step"] for path in list_checkpoints(tmp_path)] == [12, 10]


def test_where_no_checkpoint_is_whole_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path, 10, content(10)).write_bytes(b"cut")
    assert load_newest(tmp_path, tidy=True) is None
    assert "the run starts again from step 0" in capsys.readouterr().out


def test_the_sum_is_one_that_sha256sum_checks(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, content(7))
    line = path.with_name(f"{path.name}.sha256").read_text()
    assert line == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"


def test_a_bit_flipped_anywhere_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, content(7))
    whole, places = path.read_bytes(), random.Random(0)
    for _ in range(20):
        place = places.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            load_checkpoint(path)


def test_a_file_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, content(7))
    whole = path.read_bytes()
    for length in (0, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 18)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize("suffix", ["", ".sha256"])
def test_a_missing_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save_checkpoint(tmp_path, 7, content(7))
    path.with_name(path.name + suffix).unlink()
    with pytest.raises(InputError, match="not a checkpoint with its"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"0" * 64])
def test_another_sum_is_refused(tmp_path: Path, text: bytes) -> None:
    path = save_checkpoint(tmp_path, 7, content(7))
    path.with_name(f"{path.name}.sha256").write_bytes(text)
    with pytest.raises(InputError, match=r"checkpoint|damaged"):
        load_checkpoint(path)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_does_not_run_it(tmp_path: Path, zipped: bool) -> None:
    path = save_checkpoint(tmp_path, 7, content(7))
    trapped = {**content(7), "log": Trap(tmp_path / "sprung")}
    torch.save(trapped, path, _use_new_zipfile_serialization=zipped)
    sign(path)
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "other",
    [
        [1, 2],
        {"step": 7},
        {"network": {}},
        torch.zeros(3),
        {"step": 8, "network": {}},
        {"step": 7.0, "network": {}},
        {"step": 7, "network": [1]},
        {"step": 7, "network": {"fc.weight": 1.0}},
    ],
    ids=str,
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, other: Any) -> None:
    path = save_checkpoint(tmp_path, 7, content(7))
    torch.save(other, path)
    sign(path)
    with pytest.raises(InputError, match="not a checkpoint of a run"):
        load_checkpoint(path)


@pytest.mark.parametrize("garbage", [b"", b"hello world\n", b"\x80\x02."], ids=str)
def test_signed_garbage_is_refused(tmp_path: Path, garbage: bytes) -> None:
    path = save_checkpoint(tmp_path, 7, content(7))
    path.write_bytes(garbage)
    sign(path)
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(path)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A full disk, as far as a process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 4096, 65_536, 399_000])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, size: int) -> None:
    paths = [save_checkpoint(tmp_path, step, content(step)) for step in (4, 7)]
    before = sorted((tmp_path / "checkpoints").iterdir())
    with files_up_to(size), pytest.raises(OSError, match="step-00000009"):
        save_checkpoint(tmp_path, 9, content(9, size=100_000))
    assert sorted((tmp_path / "checkpoints").iterdir()) == before
    assert [load_checkpoint(path)["step"] for path in paths] == [4, 7]


def test_an_interruption_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(value: Any, file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    before = save_checkpoint(tmp_path, 7, content(7)).read_bytes()
    monkeypatch.setattr(checkpoints.torch, "save", interrupted)
    for step in (7, 9):
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, step, content(step))
    (path,) = list_checkpoints(tmp_path)
    assert path.read_bytes() == before
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert load_checkpoint(path)["step"] == 7


def test_a_removed_checkpoint_takes_its_sum_along(tmp_path: Path) -> None:
    remove_checkpoint(save_checkpoint(tmp_path, 7, content(7)))
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert list_checkpoints(tmp_path / "no run") == []


def test_a_folder_of_checkpoints_that_links_elsewhere_is_refused_and_nothing_there_is_touched(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    for step in (1, 2, 3):
        save_checkpoint(elsewhere, step, {"step": step, "network": {}})
    for path in list_checkpoints(elsewhere):
        path.with_name(f".{path.name}.1.tmp").touch()
    before = sorted(elsewhere.rglob("*"))
    (run / "checkpoints").symlink_to(elsewhere / "checkpoints")
    with pytest.raises(InputError, match="leads out of the run's directory"):
        save_checkpoint(run, 4, {"step": 4, "network": {}})
    with pytest.raises(InputError, match="leads out of the run's directory"):
        load_newest(run, tidy=True)
    assert sorted(elsewhere.rglob("*")) == before


def test_a_checkpoint_that_is_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"step": 1, "network": {}})
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(path)


def test_the_hash_of_weights_tells_values_names_types_and_shapes_apart() -> None:
    weights = {"a": torch.arange(6.0), "b": torch.tensor(1, dtype=torch.int64)}
    others = [
        {**weights, "a": torch.arange(6.0) + 1e-6},
        {"c": weights["a"], "b": weights["b"]},
        {**weights, "a": weights["a"].reshape(2, 3)},
        {**weights, "a": weights["a"].double()},
    ]
    assert state_sha256(weights) == state_sha256({"b": weights["b"], "a": weights["a"].clone()})
    assert len({state_sha256(state) for state in [weights, *others]}) == 5
