"""Text of strangers is harmless wherever it is shown, and output that cannot be written ends no run."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table as Grid
from rich.text import Text

from depthlab.commands import report, status
from depthlab.config.console import TextConsole
from depthlab.errors import InputError
from depthlab.report.core.table import Table
from depthlab.shown_text import (
    as_json,
    fenced,
    for_csv,
    for_latex,
    for_markdown,
    for_markdown_cell,
    for_markdown_line,
    one_line,
)

from .conftest import ROOT
from .report.synthetic import write_run

HOSTILE = "\x1b]0;x\x07\x1b[31mnet[a](http://b)![c](d)\n# h\n<script>alert(1)</script>|\ud800\u202e$\\undefined$"


def test_tables_in_files_are_not_cut_to_80_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Grid(*(f"a column with a long name {idx}" for idx in range(4)))
    console = TextConsole(file=(out := io.StringIO()))
    console.print(table)
    assert "a column with a long name 3" in out.getvalue()
    monkeypatch.setenv("COLUMNS", "70")
    assert (console.width, TextConsole(file=out).width, TextConsole(file=out, width=50).width) == (160, 70, 50)


def test_a_line_has_no_control_characters_and_an_end() -> None:
    assert one_line("digits_depth: 6.97 ± 0.16 %") == "digits_depth: 6.97 ± 0.16 %"
    assert one_line("a\nb\tc\x1b[31m\x00\udcff\u202e") == "a b c\ufffd[31m\ufffd\ufffd\ufffd"
    assert one_line("x" * 100, 10) == "xxxxxxx..."
    assert str(InputError("a\x1b[2J\nb")) == "a\ufffd[2J\nb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("milestones=[32000, 48000]", "milestones=[32000, 48000]"),
        ("a < b -> c", "a < b -> c"),
        ("[a](b)", r"[a]\(b)"),
        ("![a][b]", r"![a]\[b]"),
        ("[a]: b", r"[a]\: b"),
        ("<img src=x>", "&lt;img src=x>"),
        ("http://x www.y", "http&#58;//x www&#46;y"),
    ],
)
def test_markdown_makes_no_links_images_and_html(text: str, shown: str) -> None:
    assert for_markdown(text) == shown


@pytest.mark.parametrize("text", ["# h", "> q", "```", "---", "- x", "1. x", "  ## h"])
def test_a_line_of_markdown_begins_no_block(text: str) -> None:
    assert "\\" in for_markdown_line(text)[: len(text) - len(text.lstrip()) + 1]


def test_cells_and_fences_hold_what_is_in_them() -> None:
    assert for_markdown_cell("a|b\\|c") == "a\\|b\\&#124;c"
    assert fenced("```\n# h") == ["````", "```\n# h", "````"]
    assert fenced("x") == ["```", "x", "```"]


@pytest.mark.parametrize("text", ["=1+1", "+1+HYPERLINK()", "-x", "@A1", "\t=1", '=HYPERLINK("x")', "-1+cmd|'x'!A0"])
def test_a_spreadsheet_computes_nothing(text: str) -> None:
    assert for_csv(text).startswith("'")


@pytest.mark.parametrize("text", ["-", "-0.12", "+3.5 %", "-0.1 ± 0.2", "plain20", "6.97 ± 0.16 (one run)"])
def test_numbers_stay_as_they_are(text: str) -> None:
    assert for_csv(text) == text


def test_latex_runs_no_command() -> None:
    assert for_latex("\\input{x}$[a]") == r"\textbackslash{}input\{x\}\${[}a{]}"


def test_a_table_escapes_header_caption_and_cells_by_itself() -> None:
    table = Table("t", "=c", ("=h", "n"), (("=x|[a](b)", 1.5),))
    assert next(csv.reader(io.StringIO(table.csv()))) == ["'=h", "n"]
    assert "'=x" in table.csv()
    assert r"=x\|[a]\(b)" in table.markdown()


def test_nothing_of_a_hostile_record_is_markup_in_any_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        directory = write_run(tmp_path / "sweep", "plain20", seed, 1.0, 9.0)
        path = directory / "record.json"
        record = json.loads(path.read_text())
        record["model"]["name"], record["device"], record["command"] = "=" + HOSTILE, HOSTILE, f"```\n{HOSTILE}"
        record["data"]["classes"] = [HOSTILE] * 10
        record["versions"] = {HOSTILE: HOSTILE}
        record["extensions"] = {"mylab.kappa": "1", "depthlab_extensions.gone": "2", HOSTILE: "3"}
        path.write_text(json.dumps(record))
    out = tmp_path / "out"
    assert report.main([str(tmp_path / "sweep"), "--out", str(out)]) == 0
    assert status.main([str(tmp_path / "sweep")]) == 0
    shown = capsys.readouterr().out
    suffixes = (".md", ".html", ".csv", ".tex")
    pages = {path: path.read_text(encoding="utf-8") for path in out.rglob("*") if path.suffix in suffixes}
    for text in (shown, *pages.values()):
        control = {char for char in text if ord(char) < 32 and char not in "\t\n"}
        assert not control | {"\x7f", "\u202e", "\ud800"} & {*text}
    markdown = re.sub("(?s)`{4}\n.*?`{4}\n", "", pages[out / "report.md"])  # without the commands in their fence
    assert "](http" not in markdown
    assert "](d)" not in markdown
    assert "<script" not in markdown
    assert not [line for line in markdown.splitlines() if line.lstrip("- ").startswith("# h")]
    assert "<script>alert" not in pages[out / "report.html"]
    assert "extensions not installed here: " in markdown
    tables = [csv.reader(io.StringIO(text)) for path, text in pages.items() if path.suffix == ".csv"]
    assert not [cell for table in tables for row in table for cell in row if cell.startswith("=")]


def test_json_knows_no_infinity() -> None:
    found = {"a": [1.5, float("inf")], "b": {"c": float("nan")}, "d": "Infinity"}
    assert json.loads(as_json(found), parse_constant=pytest.fail) == {
        "a": [1.5, None],
        "b": {"c": None},
        "d": "Infinity",
    }


def test_a_terminal_shows_text_as_text() -> None:
    """Markup that does not fit would raise, and what does would hide or colour what a stranger wrote."""
    names, out = [HOSTILE, "[/bold] [red]x[/red] :smile:", "\x1b[2J\u202e\u200b"], io.StringIO()
    console, table = TextConsole(file=out, width=200, force_terminal=True, color_system=None), Grid("name")
    for name in names:
        console.print(name)
        console.print(Text(name))
        table.add_row(name)
    console.print(table)
    shown = out.getvalue()
    assert shown.count("[/bold] [red]x[/red] :smile:") == 3
    assert all(line.isprintable() for line in shown.splitlines())


def test_no_other_terminal_is_used() -> None:
    for path in Path("src").rglob("*.py"):
        if path.name != "console.py":
            assert not re.search(r"\bConsole\(|rich import print|rich\.print", path.read_text(encoding="utf-8")), path


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
