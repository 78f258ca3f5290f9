"""The committed results: small, unaltered, from named source with its history told, and the README repeats them."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import subprocess
from collections.abc import Callable
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
    "superseded/mnist_depth": "687603c9a5e8fa74a02f030e3e62559d1b24920c07989a1476c19399f616cc9f",
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


def errors_of(records: list[Record], network: str, key: str = "train/err", rate: float | None = None) -> list[float]:
    """The errors of a network's runs by seed; at one learning rate where several were run."""
    chosen = [r for r in records if r.model["name"] == network and rate in (None, r.config["optimizer"]["lr"])]
    return [record.metrics[key] or 0.0 for record in sorted(chosen, key=lambda record: record.seed)]


def curves_of(records: list[Record], network: str, name: str) -> list[list[tuple[int, float]]]:
    """A curve of each run of a network of mnist_depth."""
    runs = [str(record.run) for record in records if record.model["name"] == network]
    return [read_curves(RESULTS / "mnist_depth" / run)[name] for run in runs]


def extent(records: list[Record], network: str, step: int) -> tuple[int, int]:
    """The smallest and largest running training error of a network's runs at a step, in whole percent."""
    values = [dict(curve)[step] for curve in curves_of(records, network, "train/err")]
    return round(min(values)), round(max(values))


def repeated(records: dict[str, list[Record]]) -> int:
    """How many runs of digits_rate have every number of the run of digits_depth with their name."""
    before = {record.run: record.metrics for record in records["digits_depth"]}
    return sum(before.get(record.run) == record.metrics for record in records["digits_rate"])


def epochs(record: Record) -> float:
    return record.steps * record.config["data"]["batch_size"] / record.data["num_train"]


def between(values: list[float], low: float, high: float) -> bool:
    return bool(values) and low <= min(values) and max(values) <= high


R = dict[str, list[Record]]
# The README's own sentences on results, each with what the records must say for it.
SAID: list[tuple[str, Callable[[R], bool]]] = [
    (
        "CIFAR-10, 3,000 steps (about a twentieth of the full length)",
        lambda r: r["cifar10_depth_short"][0].steps == 3000,
    ),
    ("3,000 steps are 8.5 epochs.", lambda r: round(epochs(r["cifar10_depth_short"][0]), 1) == 8.5),
    (
        "In every pair resnet56 ends with a larger error than resnet20",
        lambda r: all(
            min(errors_of(r["cifar10_depth_short"], "resnet56", key))
            > max(errors_of(r["cifar10_depth_short"], "resnet20", key))
            for key in ("train/err", "test/err")
        ),
    ),
    ("MNIST, 500 images of each digit, 10.2 epochs", lambda r: round(epochs(r["mnist_depth"][0]), 1) == 10.2),
    (
        "their running training error is 6 to 33 % at step 100 and 82 to 89 % at step 140",
        lambda r: [extent(r["mnist_depth"], "resnet110", step) for step in (100, 140)] == [(6, 33), (82, 89)],
    ),
    (
        "Residual networks of up to 44 layers recover, and end below 1.5 %.",
        lambda r: all(between(errors_of(r["mnist_depth"], f"resnet{depth}"), 0, 1.5) for depth in (20, 32, 44)),
    ),
    (
        "the learning rate rises from 0.01 to 0.1",
        lambda r: (
            [{round(dict(c)[step], 9) for c in curves_of(r["mnist_depth"], "resnet110", "lr")} for step in (100, 120)]
            == [{0.01}, {0.1}]
        ),
    ),
    ("MNIST, 500 images of each digit", lambda r: r["mnist_depth"][0].config["data"]["images_per_class"] == 500),
    (
        "Residual networks of up to 56 layers reach a training error of 0 % or nearly so.",
        lambda r: all(between(errors_of(r["digits_depth"], f"resnet{depth}"), 0, 0.5) for depth in (20, 32, 44, 56)),
    ),
    (
        "With 110 layers the training error depends on the seed",
        lambda r: (
            min(errors_of(r["digits_depth"], "resnet110")) == 0.0 and max(errors_of(r["digits_depth"], "resnet110")) > 5
        ),
    ),
    (
        "plain110 stays near chance at all three",
        lambda r: between(errors_of(r["digits_rate"], "plain110"), 85, 95),
    ),
    ("are equal to the last digit (30 of 30 runs)", lambda r: repeated(r) == 30),
    ("The same at three learning rates", lambda r: len({x.config["optimizer"]["lr"] for x in r["digits_rate"]}) == 3),
    (
        "At 0.01 some runs of plain56 count as settled and others stay near chance",
        lambda r: (
            min(errors_of(r["digits_rate"], "plain56", rate=0.01)) < 45
            and max(errors_of(r["digits_rate"], "plain56", rate=0.01)) > 67.5
        ),
    ),
    (
        "fifty images of each of CIFAR-10's six animal classes",
        lambda r: all(
            (x.config["data"]["images_per_class"], len(x.data["classes"])) == (50, 6) for x in r["scratch_vs_transfer"]
        ),
    ),
    ("ResNet-20 trained on the four vehicle classes", lambda r: len(r["pretrain_vehicles"][0].data["classes"]) == 4),
    ("Five-fold cross-validation", lambda r: {x.config["data"]["fold"] for x in r["folds_digits"]} == set(range(5))),
    ("seeds were added after the first twenty had been seen", lambda r: len(r["precision_digits"]) == 4 * 40),
]


@pytest.mark.parametrize(("sentence", "holds"), SAID, ids=[sentence for sentence, _ in SAID])
def test_the_readmes_own_sentences_follow_from_the_records(
    records: R, sentence: str, holds: Callable[[R], bool]
) -> None:
    assert sentence in own_sentences()
    assert holds(records)


def test_the_verdicts_that_the_readme_repeats_are_those_of_the_claims() -> None:
    findings = fill("<!-- made: findings digits_rate -->\n<!-- end -->\n", RESULTS)
    words = {rate: re.findall(rf"\(lr={rate}\): ([a-z ]+)\.", findings) for rate in ("0.01", "0.03", "0.1")}
    assert words == {"0.01": ["shown"] * 4, "0.03": ["shown"] * 4, "0.1": [*["shown"] * 3, "not shown"]}
    assert "The last claim is shown at 0.01 and 0.03 and not at 0.1." in own_sentences()


def test_every_number_in_the_readmes_own_sentences_on_results_is_checked() -> None:
    """Numbers of results: percentages, points, epochs and counts; names and recipes hold numbers of their own."""
    text = own_sentences()
    checked = [sentence for sentence, _ in SAID]
    for sentence in re.split(r"(?<=[.:]) ", text):
        if re.search(r"\d[\d.,]* (%|points|epochs|of \d+)", sentence):
            assert any(fragment.rstrip(".") in sentence for fragment in checked) or sentence in DEFINITIONS, sentence


# Sentences with a number that is a rule, not a result.
DEFINITIONS = ("The printed 95 % interval decides, and the first claim that is not shown ends the sequence.",)


def own_sentences() -> str:
    """The README's section on results without the blocks that are made, in one line."""
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("\n## Results\n")[2].partition("\n## Speed\n")[0]
    precision = readme.partition("\nDoes bf16 cost accuracy?")[2].partition("\n### ")[0]
    blocks = re.compile(r"<!-- made: .*?<!-- end -->", re.DOTALL)
    return " ".join(blocks.sub("", section + precision).split())
