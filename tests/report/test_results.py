"""The numbers in the README are those of the committed records, which name no folder of a machine."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from depthlab.report.readme_blocks import fill

from ..conftest import ROOT

RECORDS = sorted((ROOT / "results").rglob("record.json"))


@pytest.mark.parametrize("kind", ["residual", "plain"])
@pytest.mark.parametrize(("word", "metric"), [("training", "train/err"), ("test", "test/err")])
def test_the_readme_repeats_the_records_of_the_digits(kind: str, word: str, metric: str) -> None:
    values: dict[int, list[float]] = {}
    for path in sorted((ROOT / "results" / "digits_depth").glob("*/record.json")):
        record = json.loads(path.read_text())
        if record["model"]["residual"] == (kind == "residual"):
            values.setdefault(record["model"]["depth"], []).append(record["metrics"][metric])
    cells = [f"{statistics.mean(values[d]):.2f} ± {statistics.stdev(values[d]):.2f}" for d in (20, 32, 44, 56, 110)]
    assert f"| {kind}, {word} | {' | '.join(cells)} |" in (ROOT / "README.md").read_text()


def test_the_readme_is_what_the_results_make_of_it() -> None:
    readme = (ROOT / "README.md").read_text()
    assert fill(readme, ROOT / "results") == readme


def test_results_are_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "results").rglob("*") if path.is_file()) < 20 * 2**20


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_committed_records_name_no_folder_of_a_machine(path: Path) -> None:
    record = json.loads(path.read_text())
    assert record["status"] in ("finished", "diverged")
    assert record["config"]["paths"] == {"data_dir": "data", "log_dir": "logs"}
    assert "paths." not in record["command"]
