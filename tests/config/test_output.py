"""Output that cannot be written ends no run: a reader that left, a full disk, closed streams."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT

TINY = ("data=digits", "model=resnet20", "model.depth=8", "trainer=cpu", "trainer.max_steps=4", "logger=csv")
BEFORE = "import sys\nfrom depthlab.config.output import outlive_output, prepare_streams\nprepare_streams()\n"
RUN = f"{BEFORE}outlive_output()\n"
MANY = "for _ in range(100000): print('x' * 50)\n"
# What a run does after its output is lost: it opens files, and starts processes that print.
AFTER = (
    "import subprocess, sys\n"
    "with open('result', 'w') as file: file.write(str(file.fileno() > 2))\n"
    "sys.exit(subprocess.call(['echo', 'x']) or 3)\n"
)
PLACES = {"closed pipe": "| true", "reader that leaves": "| head -n 1 > /dev/null", "full disk": "> /dev/full"}
PLACES |= {"closed stdout": ">&-", "closed streams": ">&- 2>&-", "full stderr": "2> /dev/full >&2"}


def shell(folder: Path, code: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """Python code under bash, whose exit code is Python's."""
    (folder / "code.py").write_text(code)
    line = f"{sys.executable} code.py {redirection}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(["bash", "-c", line], cwd=folder, stderr=subprocess.PIPE, text=True, check=False, timeout=60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("place", PLACES)
def test_whatever_happens_to_the_output_the_work_goes_on_and_has_its_own_exit_code(place: str, tmp_path: Path) -> None:
    done = shell(tmp_path, RUN + MANY + AFTER, PLACES[place])
    assert (done.returncode, done.stderr) == (3, "")
    assert (tmp_path / "result").read_text() == "True"  # no file got the number of a closed stream


def test_before_the_run_a_full_disk_is_an_error_and_a_reader_that_leaves_is_none(tmp_path: Path) -> None:
    assert shell(tmp_path, BEFORE + MANY + "sys.exit(3)", "> /dev/full").returncode in (1, 120)
    assert shell(tmp_path, BEFORE + MANY + "sys.exit(3)", "| true").returncode == 3


def test_what_is_printed_arrives_where_it_can_be_written(tmp_path: Path) -> None:
    done = shell(tmp_path, RUN + "print('ä ± x')\nprint('y', file=sys.stderr)\nsys.exit(0)", "> out")
    assert (done.returncode, done.stderr) == (0, "y\n")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "ä ± x\n"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["closed pipe", "full disk", "closed streams"])
def test_a_run_whose_output_is_lost_finishes(place: str, tmp_path: Path) -> None:
    words = f"{sys.executable} train.py {' '.join(TINY)} paths.log_dir={tmp_path}"
    line = f"{words} {PLACES[place]}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = tmp_path.glob("runs/*/record.json")
    assert json.loads(path.read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_mistake_keeps_its_exit_code_where_nobody_reads_it() -> None:
    line = f"{sys.executable} train.py modle=x 2>&-"
    assert subprocess.run(["bash", "-c", line], cwd=ROOT, check=False, timeout=300).returncode == 2
