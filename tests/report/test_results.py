"""The committed results: small, unaltered, from named source with its history told, and the README repeats them."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import subprocess
from pathlib import Path

import pytest

from depthlab.config.identity import flatten, identify
from depthlab.records.arrays import array_names, load_arrays
from depthlab.records.curve_file import read_curves
from depthlab.records.provenance import HISTORY, MANIFEST, commits, dirty_runs, make_manifest, published_folders
from depthlab.records.record import Record, find_records, read_record
from depthlab.report.readme_blocks import fill

from ..conftest import ROOT

RESULTS = ROOT / "results"
FOLDERS = [folder.relative_to(RESULTS).as_posix() for folder in published_folders(RESULTS)]
# Hashes of every number (see `numbers`), computed from the run directories of commit 57277ca.
CONVERTED = {
    "cifar10_depth_short": "f69016dd92df9baadd2d6f62cb4302c50e1544be92b757672d5c6d20742380d1",
    "superseded/digits_depth": "0c1c5606a072ce677ba6365a2d798b147382c951a85342a9eef8b4090b627523",
    "superseded/digits_without_warmup": "132649b84ff62b9fd27c7e5ae174f7c2d5c1dfda5bb77ee703cfd78e9cb77273",
    "folds_digits": "9113ecd92a2a7a1792a5bfbfffd9aea62be9db0c7ca770cfd00fed4ea3836300",
    "mnist_depth": "687603c9a5e8fa74a02f030e3e62559d1b24920c07989a1476c19399f616cc9f",
    "precision_cifar10_short": "87b783491542aaa75bad598a582e70f7289dd08bccb330733423735dc1c4854a",
    "precision_digits": "d92df45fc2c7ef8160a433c32cb9387b649684693fc718d33cdce432ac3be1ec",
    "pretrain_vehicles": "0ba7a2241c475daef5606984cbb4b4713390ce36d296f4c908e87bc9c3b3e799",
    "scratch_vs_transfer": "389808eb7b1bae287d0ad69d18e00058270bfa8a8dae8e225df26f03b2b1c1f3",
    "shortcuts": "52f45cd117bcb47880a5738f97b8711edcd3cefdb72955dc3f1eaefe06ed1dad",
    "two_streams": "07ed2ba2b6ea8f0988eb55e32ededf59b86918bcaee096c22ec7daf8b1f68238",
}


@pytest.fixture(scope="module")
def records() -> dict[str, list[Record]]:
    return {name: [read_record(directory) for directory in find_records(RESULTS / name)] for name in FOLDERS}


@pytest.mark.parametrize("kind", ["residual", "plain"])
@pytest.mark.parametrize(("word", "metric"), [("training", "train/err"), ("test", "test/err")])
def test_the_readme_repeats_the_records_of_the_digits(
    records: dict[str, list[Record]], kind: str, word: str, metric: str
) -> None:
    values: dict[int, list[float]] = {}
    for record in records["digits_depth"]:
        if record.model["residual"] == (kind == "residual"):
            values.setdefault(record.model["depth"], []).append(record.metrics[metric] or 0.0)
    cells = [f"{statistics.mean(values[d]):.2f} ± {statistics.stdev(values[d]):.2f}" for d in (20, 32, 44, 56, 110)]
    assert f"| {kind}, {word} | {' | '.join(cells)} |" in (ROOT / "README.md").read_text()


def test_the_readme_is_what_the_results_make_of_it() -> None:
    readme = (ROOT / "README.md").read_text()
    assert fill(readme, RESULTS) == readme


def test_results_are_few_and_small() -> None:
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert len(files) < 150
    assert sum(path.stat().st_size for path in files) < 12 * 2**20
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert len(listed.stdout.splitlines()) < 600


@pytest.mark.parametrize("name", FOLDERS)
def test_committed_records_name_no_folder_of_a_machine(records: dict[str, list[Record]], name: str) -> None:
    for record in records[name]:
        assert record.is_done
        assert record.config["paths"] == {"data_dir": "data", "log_dir": "logs"}
        assert "paths." not in record.command


def test_no_file_differs_from_the_one_that_was_published() -> None:
    assert make_manifest(RESULTS) == json.loads((RESULTS / MANIFEST).read_text())


def test_every_defect_of_a_record_is_in_the_history(records: dict[str, list[Record]]) -> None:
    history = (RESULTS / HISTORY).read_text()
    sections = {part.partition("\n")[0]: part for part in history.split("\n## ")}
    for name, found in records.items():
        section = sections[name]
        assert all(commit[:7] in section for commit in commits(found)), name
        assert not dirty_runs(found) or "dirty" in section, name
        for record in found:
            assert len(commits([record])) == 1 or str(record.run) in section


@pytest.mark.parametrize("name", FOLDERS)
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    folder = RESULTS / name
    readme, page = (folder / "README.md").read_text(), (folder / "report.html").read_text()
    for target in [*re.findall(r"\]\(([^)#]+)", readme), *re.findall(r'href="([^":#]+)"', page)]:
        assert target.startswith("http") or (folder / target).exists(), target
    assert f"../{HISTORY}" in readme and f"../{HISTORY}" in page


@pytest.mark.parametrize("name", FOLDERS)
def test_the_page_says_what_is_wrong_with_the_source(records: dict[str, list[Record]], name: str) -> None:
    readme = (RESULTS / name / "README.md").read_text()
    found = records[name]
    assert (f"{len(dirty_runs(found))} of {len(found)} records are of source that differed" in readme) == bool(
        dirty_runs(found)
    )
    assert ("of different source" in readme) == (len(commits(found)) > 1)


def numbers(folder: Path) -> str:
    """A hash of every number of a folder: of records, curves and arrays."""
    digest = hashlib.sha256()
    for directory in find_records(folder):
        digest.update(json.dumps(read_record(directory).to_dict(), sort_keys=True).encode())
        digest.update(json.dumps(read_curves(directory), sort_keys=True).encode())
        for name in array_names(directory):
            for key, array in sorted(load_arrays(directory, name).items()):
                digest.update(f"{name}/{key} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", list(CONVERTED))
def test_the_conversion_changed_no_number(name: str) -> None:
    assert numbers(RESULTS / name) == CONVERTED[name]


def test_every_run_is_still_called_by_what_it_is(records: dict[str, list[Record]]) -> None:
    for found in records.values():
        for record in found:
            config = flatten({**record.config, "trainer": {**record.config["trainer"], "precision": record.precision}})
            assert record.num_processes is not None
            identity = identify(_with_hash_of_weights(config, record), record.num_processes)
            assert (identity.directory, identity.recipe) == (record.run, record.recipe)


def _with_hash_of_weights(config: dict[str, object], record: Record) -> dict[str, object]:
    return {**config, "model.weights": record.weights["content"]} if record.weights else config
