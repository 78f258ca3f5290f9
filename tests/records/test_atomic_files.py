"""A file is replaced whole or stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from depthlab.records import atomic_files
from depthlab.records.atomic_files import STAGING, replacing, replacing_folder


def test_the_new_content_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path  # a rename across file systems would copy
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_flushed_to_disk_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flushed = tmp_path / "file", []
    monkeypatch.setattr("os.fsync", lambda descriptor: flushed.append(path.exists()))
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert flushed == [False, True]  # the content before the rename, the folder's entry after it


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_replaced_at_once_and_keeps_what_was_not_written(tmp_path: Path) -> None:
    root, folder = tmp_path / "results", tmp_path / "results" / "sub" / "x"
    with replacing_folder(root, folder) as copy:
        (copy / "a").write_text("old")
        (copy / "kept").write_text("mine")
        assert not folder.exists()
    assert files(root) == {"sub/x/a": "old", "sub/x/kept": "mine"}
    with replacing_folder(root, folder) as copy:
        assert copy.name == "x"  # pages are named by their folder
        (copy / "a").write_text("new")
        assert files(folder) == {"a": "old", "kept": "mine"}
    assert files(root) == {"sub/x/a": "new", "sub/x/kept": "mine"}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_folders_are_exchanged_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("old")
    renamed = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, target: renamed.append(self) or rename(self, target))
    if not can_exchange:
        monkeypatch.setattr(atomic_files, "_exchange", lambda a, b: False)
    with replacing_folder(tmp_path, tmp_path / "x") as copy:
        (copy / "a").write_text("new")
    assert files(tmp_path) == {"x/a": "new"}
    assert bool(renamed) == (not can_exchange)


def test_an_error_leaves_the_folder_and_the_next_call_removes_what_a_kill_left(tmp_path: Path) -> None:
    root = tmp_path / "results"
    with pytest.raises(RuntimeError), replacing_folder(root, root / "x") as copy:
        (copy / "a").write_text("half")
        raise RuntimeError
    assert not root.exists()
    (root / STAGING / "x").mkdir(parents=True)
    (root / STAGING / "x" / "b").write_text("half")
    with replacing_folder(root, root / "x") as copy:
        (copy / "a").write_text("new")
    assert files(root) == {"x/a": "new"}


def test_a_link_in_the_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (tmp_path / "results" / "x").mkdir(parents=True)
    (tmp_path / "results" / "x" / "link").symlink_to(tmp_path / "secret")
    with replacing_folder(tmp_path / "results", tmp_path / "results" / "x") as copy:
        (copy / "a").write_text("new")
    assert (tmp_path / "results" / "x" / "link").is_symlink()
