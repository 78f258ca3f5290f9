"""The report as its users meet it: the command line, the files it writes, the page in a browser."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from depthlab.commands.report import main
from depthlab.records.publishing import publish
from depthlab.records.record import read_record
from depthlab.report.report import make_report

from .synthetic import write_diagnostics, write_run, write_sweep

ROOT = Path(__file__).resolve().parent.parent.parent
FIGURES = ("error_vs_depth", "curves", "responses", "confusion", "gradients", "mistakes")


WATCH = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""


def _report(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in this process; `sweep` below starts the script."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("COLUMNS", "200")
        code = main(list(map(str, arguments)))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight runs with everything a run can leave, and their report."""
    root = tmp_path_factory.mktemp("logs") / "depth_demo"
    for directory in write_sweep(root, seeds=2):
        record = json.loads((directory / "record.json").read_text())
        write_diagnostics(directory, record["model"]["depth"], record["model"]["residual"], record["seed"])
    command = [sys.executable, "scripts/report.py", str(root)]
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    (root / "stdout.txt").write_text(done.stdout)
    return root


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_command_leaves_pages_tables_and_figures(sweep: Path) -> None:
    out = sweep / "report"
    assert (out / "report.html").stat().st_size > 100_000
    for name in FIGURES:
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    for name in ("networks", "steps_to_reach", "errors", "comparisons", "classes", "confused_pairs", "runs"):
        assert all((out / "tables" / f"{name}{suffix}").exists() for suffix in (".md", ".csv", ".tex"))


def test_the_terminal_shows_table_verdicts_and_where_things_lie(sweep: Path) -> None:
    shown = (sweep / "stdout.txt").read_text()
    assert re.search(r"plain56 +│ 2 │ +\d\.\d\d ± \d\.\d\d", shown)
    assert re.match(r"Degradation: not judged\. plain56 trains 4\.\d\d points worse than plain20 \(95 % CI ", shown)
    assert "two runs: no verdict" in shown.splitlines()[0]
    assert f"page: {sweep}/report/report.html" in shown
    assert f"figure: {sweep}/report/figures/error_vs_depth.png" in shown


def test_the_markdown_page_has_what_a_results_folder_needs(sweep: Path) -> None:
    page = (sweep / "report" / "report.md").read_text()
    for heading in ("Findings", "Results", "Figures", "Classes", "Commands", "Comparison with published results"):
        assert f"## {heading}" in page
    for link in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert (sweep / "report" / link).exists()
    assert "python train.py -m model=plain20,plain56,resnet20,resnet56 seed=1,2,3" in page
    assert "cpu: Example CPU" in page
    assert str(sweep.parent) not in page
    assert str(sweep.parent) not in (sweep / "report" / "report.html").read_text()


def test_the_error_table_is_recomputed_from_the_records(sweep: Path) -> None:
    records = [json.loads(path.read_text()) for path in sweep.glob("*/record.json")]
    rows = _rows(sweep / "report" / "tables" / "errors.csv")
    for row in rows:
        if row["metric"] == "test error (%)":
            values = [r["metrics"]["test/err"] for r in records if r["model"]["name"] == row["network"]]
            assert float(row["mean"]) == pytest.approx(sum(values) / 2)
            assert (float(row["min"]), float(row["max"])) == (min(values), max(values))
    assert len(rows) == 16  # 4 networks, 4 errors


def test_what_the_claims_compare_is_not_called_exploratory_beside_them(sweep: Path) -> None:
    rows = _rows(sweep / "report" / "tables" / "comparisons.csv")
    assert {(row["difference"], row["metric"]) for row in rows} == {
        ("plain20 - resnet20", "training error"),
        ("plain20 - resnet20", "test error"),
        ("plain56 - plain20", "test error"),
        ("resnet56 - resnet20", "test error"),
    }


def test_an_unfinished_sweep_reports_what_there_is(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path, "plain20", seed, 1.0 + seed / 10, 9.0)
    running = write_run(tmp_path, "plain56", 1, 0, 0, record={"status": "running", "metrics": {}, "steps": 100})
    (running / "progress.json").write_text('{"step": 1200, "max_steps": 64000}')
    failed = {"status": "failed", "metrics": {}, "steps": 7, "failure": {"reason": "CUDA out of memory"}}
    write_run(tmp_path, "plain56", 2, 0, 0, record=failed)
    diverged = {"status": "diverged", "metrics": {"train/err_running": 90.0}, "divergence": {"step": 321}}
    write_run(tmp_path, "resnet20", 1, 0, 0, record=diverged)
    bad = write_run(tmp_path, "resnet20", 3, 1.0, 9.0)
    (bad / "record.json").write_text("{")
    done = _report(tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report" / "report.md").read_text()
    for text in (done.stdout, page):
        assert "plain56 seed 1: running or interrupted, last seen at step 1,200 of 64,000" in text
        assert "plain56 seed 2: failed (CUDA out of memory)" in text
        assert "resnet20 seed 1: diverged at step 321; counted at the chance error of 90 %" in text
        assert "resnet20 seed 2: no record, though other networks have it" in text
        assert f"{bad.name}: excluded, record.json is damaged" in text
    rows = {row["network"]: row for row in _rows(tmp_path / "report" / "tables" / "networks.csv")}
    assert rows["resnet20"]["n"] == "1"
    assert rows["resnet20"]["test error (%)"] == "90.00 (one run)"
    assert rows["resnet20"]["other runs"] == "1 diverged"
    assert rows["plain56"]["other runs"] == "1 failed, 1 running"


def test_what_networks_cost_stands_beside_their_errors(tmp_path: Path) -> None:
    for seed, speed in ((1, 900.0), (2, 1100.0)):
        write_run(tmp_path, "plain20", seed, 1.0, 9.0, record={"images_per_second": speed, "peak_memory_mib": 512.4})
    write_run(tmp_path, "resnet20", 1, 1.0, 9.0, record={"images_per_second": 800.0, "peak_memory_mib": None})
    make_report([tmp_path], tmp_path / "report")
    rows = {row["network"]: row for row in _rows(tmp_path / "report" / "tables" / "networks.csv")}
    assert (rows["plain20"]["img/s"], rows["plain20"]["peak MiB"]) == ("1000", "512")
    assert (rows["resnet20"]["img/s"], rows["resnet20"]["peak MiB"]) == ("800", "")


@pytest.mark.slow
def test_numbers_that_are_none_are_left_out_and_the_rest_is_reported(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path, "plain20", seed, 1.0, 9.0)
    forged = write_run(tmp_path, "plain20", 3, 1.0, 9.0)
    path = forged / "record.json"
    path.write_text(path.read_text().replace('"status"', '"peak_memory_mib": Infinity, "status"', 1))
    odd = write_run(tmp_path, "plain56", 1, 1.0, 9.0)
    path = odd / "record.json"
    path.write_text(path.read_text().replace('"data": {', '"data": {"folder": 5, ', 1))
    blank = write_run(tmp_path, "resnet20", 1, 1.0, 9.0)
    lines = (blank / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("val/err")
    cells = [line.split(",") for line in lines[1:]]
    rows = [",".join([*row[:column], "nan", *row[column + 1 :]]) for row in cells]
    (blank / "metrics.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    done = _report(tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{forged.name}: excluded" in done.stdout
    assert "peak_memory_mib" in done.stdout
    assert f"{odd.name}: excluded" not in done.stdout  # a folder's name counts as it is written
    assert (tmp_path / "report" / "figures" / "curves.png").exists()


@pytest.mark.slow
def test_thinned_copies_say_that_they_are(tmp_path: Path) -> None:
    write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=3000)
    publish(tmp_path / "logs", tmp_path / "results")
    for folder in ("logs", "results"):
        make_report([tmp_path / folder], tmp_path / folder / "report")
    whole, copies = ((tmp_path / folder / "report" / "report.md").read_text() for folder in ("logs", "results"))
    assert "whose curves were thinned" in copies
    assert "whose curves were thinned" not in whole


def test_a_run_that_was_planned_and_never_started_is_missing(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        directory = write_run(tmp_path, "plain20", seed, 1.0, 9.0)
        config = read_record(directory)["config"]
        frozen = {"command": "", "directory": directory.name, "config": config}
        configs = tmp_path / "sweep" / "20260101-000000" / "configs"
        configs.mkdir(parents=True, exist_ok=True)
        (configs / f"{seed}.json").write_text(json.dumps(frozen))
    (configs / "4.json").write_text("{")
    shutil.rmtree(directory)
    write_run(tmp_path, "resnet20", 2, 1.0, 9.0)
    done = _report(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "plain20 seed 3: planned, not started" in done.stdout
    assert "seed 2: planned" not in done.stdout
    assert "resnet20 seed 1: no record, though other networks have it" in done.stdout


@pytest.mark.slow
def test_runs_without_diagnostics_say_which_figures_are_left_out_and_why(tmp_path: Path) -> None:
    first = write_run(tmp_path, "plain20", 1, 1.0, 9.0)
    write_run(tmp_path, "resnet20", 1, 1.0, 9.0)
    write_diagnostics(first, 20, False, 1)
    (first / "diagnostics" / "responses.npz").write_bytes(b"PK nonsense")
    np.savez(first / "diagnostics" / "predictions.npz", label=np.array([-1]), predicted=np.array([1]))
    page = make_report([tmp_path], tmp_path / "report").markdown.read_text()
    assert "Layer responses: not drawn, plain20 seed 1: diagnostics/responses.npz is damaged" in page
    assert "Confusion: not drawn, plain20 seed 1: diagnostics/predictions.npz is damaged" in page
    assert "plain20 seed 1). Not included: resnet20 seed 1 holds no diagnostics/mistakes.npz" in page or (
        "label, then prediction. Not included: resnet20 seed 1 holds no diagnostics/mistakes.npz" in page
    )
    assert not (tmp_path / "report" / "figures" / "confusion.png").exists()


def test_an_old_figure_does_not_outlive_its_data(tmp_path: Path) -> None:
    run = write_run(tmp_path, "plain20", 1, 1.0, 9.0)
    make_report([tmp_path], tmp_path / "report")
    assert (tmp_path / "report" / "figures" / "curves.png").exists()
    (run / "metrics.csv").unlink()
    make_report([tmp_path], tmp_path / "report")
    assert not (tmp_path / "report" / "figures" / "curves.png").exists()


def test_a_search_over_many_recipes_draws_some_and_names_the_rest(tmp_path: Path) -> None:
    for i in range(1, 9):
        for network in ("plain20", "resnet20"):
            write_run(tmp_path, network, 1, 1.0, 9.0, {"optimizer.lr": i / 10}, points=0)
    report = make_report([tmp_path], tmp_path / "report")
    page = report.markdown.read_text()
    assert page.count("*Training curves (lr=") == 6
    assert "Further settings: not drawn, 6 settings are drawn, not: lr=0.7; lr=0.8" in page
    assert len(report.groups) == 16


def test_a_sweep_over_one_key_of_one_network_shares_its_figures(tmp_path: Path) -> None:
    for i in range(1, 3):
        write_run(tmp_path, "resnet20", 1, 1.0, 9.0, {"optimizer.lr": i / 10})
    page = make_report([tmp_path], tmp_path / "report").markdown.read_text()
    assert {path.stem for path in (tmp_path / "report" / "figures").glob("*.png")} == {"curves", "final_values"}
    assert "## Findings" not in page
    assert "What difference does optimizer.lr make to resnet20?" in page


def test_one_run_has_no_figure_of_final_values(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet20", 1, 1.0, 9.0)
    report = make_report([tmp_path], tmp_path / "report")
    assert [path.stem for path in (tmp_path / "report" / "figures").glob("*.png")] == ["curves"]
    assert report.figure == tmp_path / "report" / "figures" / "curves.png"


def test_superseded_results_are_named_as_such(tmp_path: Path) -> None:
    write_run(tmp_path / "new", "plain20", 1, 1.0, 9.0, points=0)
    write_run(tmp_path / "superseded" / "old", "plain20", 1, 2.0, 9.5, {"trainer.max_steps": 3000}, points=0)
    done = _report("--compare", tmp_path / "new", tmp_path / "superseded" / "old")
    assert done.returncode == 0, done.stderr
    assert "old: superseded results, kept for the record; do not cite them" in done.stdout


def test_a_run_that_ended_early_is_reported_with_its_step_and_reason(tmp_path: Path) -> None:
    stopped = {"steps": 12, "stopped_early": {"step": 12, "reason": "val/err did not improve"}}
    write_run(tmp_path, "plain20", 1, 1.0, 9.0, record=stopped, points=0)
    done = _report(tmp_path)
    assert "plain20 seed 1: stopped early at step 12 of 64,000 (val/err did not improve)" in done.stdout
    assert "1 run (1 finished)" in done.stdout


def test_averaged_weights_and_extensions_are_shown(tmp_path: Path) -> None:
    record = {"metrics_ema": {"train/err": 0.5, "test/err": 8.5}, "extensions": {"mylab": "0.3", "other": "-"}}
    write_run(tmp_path, "plain20", 1, 1.0, 9.0, record=record, points=0)
    page = make_report([tmp_path], tmp_path / "report").markdown.read_text()
    (row,) = _rows(tmp_path / "report" / "tables" / "networks.csv")
    assert (row["test error (%)"], row["test error, averaged weights (%)"]) == ("9.00 (one run)", "8.50 (one run)")
    assert "extensions: mylab 0.3; other" in page


@pytest.mark.parametrize("content", [None, "{", '{"version": 99}'])
def test_nothing_to_report_is_refused_in_a_few_lines(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        run = write_run(tmp_path, "plain20", 1, 1.0, 9.0)
        (run / "record.json").write_text(content)
    done = _report(tmp_path)
    assert done.returncode == 2
    assert "No run that can be reported" in done.stderr
    assert len(done.stderr.splitlines()) <= 7
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("--compare", "logs"), ("logs", "--margin", "-1"), ()])
def test_a_wrong_command_line_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _report(*arguments)


@pytest.mark.slow
def test_compare_sets_two_sweeps_side_by_side(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", seeds=3, points=0)
    write_sweep(tmp_path / "b", seeds=3, points=0, overrides={"optimizer.lr": 0.05})
    write_run(tmp_path / "b", "plain32", 1, 1.2, 9.9, {"optimizer.lr": 0.05}, points=0)
    done = _report("--compare", tmp_path / "a", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "a" / "compare_b"
    assert {row["key"]: (row["a"], row["b"]) for row in _rows(out / "tables" / "configurations.csv")} == {
        "networks": ("plain20, plain56, resnet20, resnet56", "plain20, plain32, plain56, resnet20, resnet56"),
        "optimizer.lr": ("0.1", "0.05"),
    }
    differences = {row["difference"] for row in _rows(out / "tables" / "comparisons.csv")}
    assert {"b: plain20 - a: plain20", "b: resnet56 - a: resnet56"} <= differences
    assert "b: plain32: in b only" in done.stdout
    assert not (tmp_path / "a" / "report").exists()


def test_other_names_and_places_for_the_pages(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep", "plain20", 1, 1.0, 9.0)
    done = _report(tmp_path / "sweep", "--out", tmp_path / "results" / "x", "--markdown-name", "README.md")
    assert done.returncode == 0
    assert (tmp_path / "results" / "x" / "README.md").exists()
    (href,) = re.findall(r'<a href="([^"]*plain20[^"]*)"', (tmp_path / "results" / "x" / "report.html").read_text())
    assert (tmp_path / "results" / "x" / href / "record.json").exists()


def test_the_same_runs_give_the_same_files(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep", "plain20", 1, 1.0, 9.0)
    for name in ("one", "two"):
        make_report([tmp_path / "sweep"], tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*") if path.is_file())
    assert len(files) > 15
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_importing_the_report_pulls_in_nothing_of_training() -> None:
    code = "import sys, depthlab.report.report; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    heavy = ["torch", "torchvision", "lightning", "hydra", "omegaconf", "scipy", "matplotlib", "sklearn"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_latex_tables_have_as_many_cells_as_columns_and_escape_names(tmp_path: Path) -> None:
    write_run(tmp_path, "plain20", 1, 1.0, 9.0)
    write_run(tmp_path, "plain20", 2, 1.0, 9.0, {"data.name": "digits", "trainer.max_steps": 440})
    make_report([tmp_path], tmp_path / "report")
    text = (tmp_path / "report" / "tables" / "networks.tex").read_text()
    assert r"trainer.max\_steps" in text
    assert r"\toprule" in text
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert columns
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(columns[1])}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here: the tables are not compiled")
def test_latex_tables_compile_as_they_are(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "report" / "tables", tmp_path, dirs_exist_ok=True)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


# Run in the page: sorts the first table by its test error, twice, and tells what it sees.
PROBE = """<script>
const table = document.querySelector("table");
const headers = [...table.querySelectorAll("th")];
const header = headers.find((h) => h.textContent.startsWith("test error"));
const column = () => [...table.tBodies[0].rows].map((r) => r.cells[headers.indexOf(header)].textContent);
const seen = { unsorted: column() };
header.querySelector("button").click(); seen.up = column();
header.querySelector("button").click(); seen.down = column();
seen.images = [...document.images].map((i) => i.complete && i.naturalWidth > 0);
seen.tooWide = document.documentElement.scrollWidth > window.innerWidth;
seen.ground = getComputedStyle(document.body).backgroundColor;
document.body.insertAdjacentHTML("beforeend", "<pre id=seen>" + JSON.stringify(seen) + "</pre>");
</script>"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the page is not opened")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_works_in_chromium(sweep: Path, tmp_path: Path, width: int, dark: bool) -> None:
    page = tmp_path / "page.html"
    page.write_text((sweep / "report" / "report.html").read_text().replace("</body>", f"{PROBE}</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    places = [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", page.as_uri()]
    command = [str(CHROMIUM), *flags.split(), scheme, *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)
    assert found, done.stdout[-500:]
    seen = json.loads(found[1])
    means = [float(text.split(" ")[0]) for text in seen["up"]]
    assert means == sorted(means)
    assert seen["down"] == seen["up"][::-1]
    assert seen["unsorted"] not in (seen["up"], seen["down"])
    assert seen["images"] == [True] * len(FIGURES)
    assert not seen["tooWide"]
    assert seen["ground"] == ("rgb(20, 24, 28)" if dark else "rgb(255, 255, 255)")


def test_the_page_asks_no_network(sweep: Path) -> None:
    page = (sweep / "report" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {source.split(":")[0] for source in sources if ":" in source} == {"data"}
    assert "@import" not in page
    assert "url(" not in page


@pytest.mark.slow
def test_a_hundred_long_runs_take_under_20_seconds_and_1_gib(tmp_path: Path) -> None:
    first = write_run(tmp_path, "plain20", 0, 1.0, 9.0, points=64_000)
    for network in (
        "plain20",
        "plain32",
        "plain44",
        "plain56",
        "plain110",
        *(f"resnet{d}" for d in (20, 32, 44, 56, 110)),
    ):
        for seed in range(10):
            run = write_run(tmp_path, network, seed, 1 + seed / 10, 9 + seed / 10, points=0)
            if run != first:
                os.link(first / "metrics.csv", run / "metrics.csv")
    # A process of its own, so that the report is the only child whose use is counted.
    watched = [sys.executable, "-c", WATCH, sys.executable, "scripts/report.py", str(tmp_path)]
    done = subprocess.run(watched, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, kib = done.stdout.splitlines()[-1].split()
    # Processor time, which other work on the machine does not lengthen; the report is one process of one thread.
    assert float(seconds) < 20
    assert int(kib) < 1024**2
    assert "All 6,405,100 logged points are used" in (tmp_path / "report" / "report.md").read_text()
