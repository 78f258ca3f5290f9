"""A run's directory belongs to one living process at a time; a file in it is replaced whole or stays as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from depthlab.errors import InputError
from depthlab.records import atomic_files
from depthlab.records.atomic_files import STAGING, replacing, replacing_folder
from depthlab.records.directory import Held, check_still_ours, claim, holder, is_held, set_aside, still_ours

HOLD = """
import sys, time
from pathlib import Path
from depthlab.records.directory import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

# Many processes wait for one another, then claim; who wins keeps it for longer than the others wait.
CLAIM_AT_ONCE = """
import os, sys, time
from pathlib import Path
from depthlab.records.directory import Held, claim
count, hold_seconds = int(sys.argv[3]), float(sys.argv[4])
start = time.monotonic() + 0.3
for child in range(count):
    if os.fork() == 0:
        time.sleep(max(0, start - time.monotonic()))
        try:
            with claim(Path(sys.argv[1]) / (str(child) if sys.argv[2] == "different" else "run")):
                os.write(1, b"won\\n")
                time.sleep(hold_seconds)
        except Held:
            os.write(1, b"held\\n")
        os._exit(0)
for child in range(count):
    os.wait()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "run"


def test_a_claim_makes_the_directory_and_ends_with_its_block(run: Path) -> None:
    assert not is_held(run)
    with claim(run):
        assert run.is_dir()
        assert is_held(run)
    assert not is_held(run)
    with claim(run):
        pass
    assert list(run.iterdir()) == []


def test_a_claim_ends_with_an_error_too(run: Path) -> None:
    with pytest.raises(RuntimeError), claim(run):
        raise RuntimeError
    assert not is_held(run)


def test_another_process_is_told_and_a_killed_one_lets_go(run: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(Held, match=f"worked on by process {holder.pid} on .* since 20"), claim(run):
                pytest.fail("two held it")
            assert is_held(run)
            with claim(run.parent / "another run"):
                assert is_held(run)
        finally:
            holder.kill()
    assert not is_held(run)
    with claim(run):
        assert is_held(run)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "hold_seconds"), [(20, 2), (100, 8)], ids=["20", "100"])
@pytest.mark.parametrize("kind", ["same", "different"])
def test_of_many_at_once_one_holds_a_directory(tmp_path: Path, kind: str, count: int, hold_seconds: float) -> None:
    arguments = [sys.executable, "-c", CLAIM_AT_ONCE, str(tmp_path), kind, str(count), str(hold_seconds)]
    lines = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    winners = 1 if kind == "same" else count
    assert sorted(lines) == ["held"] * (count - winners) + ["won"] * winners
    assert len([path for path in tmp_path.iterdir() if not path.name.startswith(".")]) == winners


def test_a_place_that_cannot_be_written_is_said_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder should be")
    with pytest.raises(InputError, match=r"cannot be written .*paths\.log_dir"), claim(tmp_path / "logs" / "run"):
        pytest.fail("claimed")
    assert not is_held(tmp_path / "logs" / "run")


def test_a_directory_that_was_set_aside_stays_claimed_by_name(run: Path) -> None:
    with claim(run):
        (run / "record.json").write_text("{}")
        aside = set_aside(run)
        assert is_held(run)
        assert not run.exists()
    assert aside.parent == run.parent / ".aside"
    assert aside.name.startswith("run-")
    assert (aside / "record.json").read_text() == "{}"


def test_of_two_that_are_set_aside_in_one_second_both_are_kept(run: Path) -> None:
    """Also after the clock was set back."""
    with claim(run):
        for text in "123":
            run.mkdir(exist_ok=True)
            (run / "record.json").write_text(text)
            set_aside(run)
    kept = sorted((run.parent / ".aside").glob("*/record.json"))
    assert sorted(path.read_text() for path in kept) == ["1", "2", "3"]


def test_a_claim_on_a_folder_that_was_removed_is_no_longer_ours(run: Path) -> None:
    """Stopped, its folder removed, the line started again, and continued: two would write to one directory."""
    with claim(run) as first:
        assert first.still_ours() and still_ours(run)
        shutil.rmtree(run.parent)
        assert not first.still_ours()
        with pytest.raises(Held, match="may be another process's now"):
            check_still_ours(run)
        code = f"{HOLD.replace('time.sleep(60)', 'input()')}"
        with subprocess.Popen(
            [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "held\n"
            assert not still_ours(run)
            second.communicate("\n")
    assert still_ours(run)  # this process claims nothing now


def test_a_lost_claim_takes_no_files_of_the_one_that_holds_the_run(run: Path) -> None:
    with claim(run):
        shutil.rmtree(run.parent)
        (run.parent / ".locks").mkdir(parents=True)
        for name in ("run.lock", "run.holder"):
            (run.parent / ".locks" / name).write_text("another's")
    assert sorted(path.name for path in (run.parent / ".locks").iterdir()) == ["run.holder", "run.lock"]


def test_a_run_that_leaves_nothing_leaves_no_lock(run: Path) -> None:
    with claim(run):
        run.rmdir()  # as a run that was refused does
    assert not run.parent.exists()
    with claim(run.parent / "other"):
        pass
    with claim(run):
        run.rmdir()
    assert sorted(path.name for path in (run.parent / ".locks").iterdir()) == ["other.lock"]


@pytest.mark.parametrize("name", ["run.lock", "run.holder"])
def test_links_among_the_locks_are_refused(run: Path, name: str) -> None:
    victim = run.parent.parent / "victim"
    victim.write_text("precious")
    (run.parent / ".locks").mkdir(parents=True)
    (run.parent / ".locks" / name).symlink_to(victim)
    with pytest.raises(InputError, match="symbolic link"), claim(run):
        pytest.fail("claimed")
    assert victim.read_text() == "precious"


def test_a_holder_that_is_a_fifo_blocks_nobody(run: Path) -> None:
    (run.parent / ".locks").mkdir(parents=True)
    os.mkfifo(run.parent / ".locks" / "run.holder")
    assert holder(run) == "another process"
    with claim(run):
        assert str(os.getpid()) in holder(run)


def test_what_a_killed_process_left_half_written_goes_at_the_next_start(run: Path) -> None:
    left = [
        run / ".record.json.7.tmp",
        run / "diagnostics" / ".a.npz.7.tmp",
        run / "checkpoints" / ".step-1.ckpt.7.tmp",
    ]
    kept = [run / "record.json", run / "diagnostics" / "a.npz", run / "job.log"]
    for path in [*left, *kept]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with claim(run):
        assert [path for path in left if path.exists()] == []
        assert all(path.exists() for path in kept)


def test_a_folder_that_links_elsewhere_is_not_tidied(run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".a.tmp").touch()
    run.mkdir(parents=True)
    (run / "checkpoints").symlink_to(elsewhere)
    with claim(run):
        assert (elsewhere / ".a.tmp").exists()


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
