"""A run's directory belongs to one living process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from depthlab.errors import InputError
from depthlab.records.directory import Held, claim, is_held, set_aside

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


@pytest.mark.parametrize(
    ("count", "hold_seconds"), [(20, 2), pytest.param(100, 8, marks=pytest.mark.slow)], ids=["20", "100"]
)
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
