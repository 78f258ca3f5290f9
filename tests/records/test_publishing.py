"""A published folder: what it keeps, that it is small, and that it does not say where anything lay."""

from __future__ import annotations

import base64
import io
import json
import lzma
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthlab.commands.publish import main
from depthlab.errors import InputError
from depthlab.records import published_files
from depthlab.records.arrays import array_names, load_arrays
from depthlab.records.atomic_files import STAGING
from depthlab.records.curve_file import CurveFile, read_curves
from depthlab.records.provenance import HISTORY, MANIFEST, make_manifest, note_publication, warnings, write_manifest
from depthlab.records.published_files import ARRAYS, CURVES, RECORDS
from depthlab.records.published_pages import tidy_pages
from depthlab.records.publishing import publish
from depthlab.records.record import find_records, read_record, write_record

from ..report.synthetic import write_diagnostics, write_run, write_sweep

COMMANDS = [
    ("python train.py model=resnet20 -m seed=1,2", "python train.py model=resnet20 -m seed=1,2"),
    ("python /home/anna/depthlab/train.py seed=1", "python train.py seed=1"),
    ("python train.py paths.log_dir=/home/anna/logs seed=1", "python train.py seed=1"),
    ("python train.py ++paths.data_dir=/home/anna/d seed=1", "python train.py seed=1"),
    ("python train.py 'paths.data_dir=/home/anna/my data' seed=1", "python train.py seed=1"),
    ("python train.py 'data.folder=/home/anna/my flowers'", "python train.py 'data.folder=my flowers'"),
    ("python train.py model.weights=logs/pretrain/run-1", "python train.py model.weights=run-1"),
    ("python train.py hydra.sweep.dir=/home/x hydra/launcher=pool", "python train.py hydra/launcher=pool"),
]


@pytest.mark.parametrize(("typed", "published"), COMMANDS)
def test_a_command_names_no_place(tmp_path: Path, typed: str, published: str) -> None:
    write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, record={"command": typed}, points=2)
    (copy,) = publish(tmp_path / "logs", tmp_path / "results")
    assert read_record(copy).command == published


def test_long_curves_are_thinned_and_the_record_says_so(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=5000)
    (copy,) = publish(tmp_path / "logs", tmp_path / "results")
    curve, thinned = read_curves(directory)["train/err"], read_curves(copy)["train/err"]
    assert len(curve) == 5000
    assert len(thinned) <= 2000
    assert thinned[-1] == curve[-1]
    assert set(thinned) <= set(curve)
    assert read_record(copy).published["points_before"]["train/err"] == 5000


def test_only_what_ended_is_published_and_nothing_is_replaced_by_other_numbers(tmp_path: Path) -> None:
    write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, record={"status": "running"}, points=2)
    with pytest.raises(InputError, match="holds no finished run"):
        publish(tmp_path / "logs", tmp_path / "results")
    directory = write_run(tmp_path / "logs", "plain20", 2, 1.0, 9.0, points=2)
    write_diagnostics(directory, 20, False, 2)
    (copy,) = publish(tmp_path / "logs", tmp_path / "results")
    assert publish(tmp_path / "logs", tmp_path / "results") == [copy]
    record = read_record(directory)
    write_record(directory, replace(record, metrics={**record.metrics, "test/err": 1.0}))
    with pytest.raises(InputError, match="holds other results of this run"):
        publish(tmp_path / "logs", tmp_path / "results")
    assert read_record(copy).metrics["test/err"] == 9.0


def test_an_experiment_is_a_handful_of_files_that_are_read_like_run_directories(tmp_path: Path) -> None:
    first = write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=20)
    second = write_run(tmp_path / "logs", "resnet20", 1, 1.0, 8.0, points=0)
    write_diagnostics(first, 20, False, 1)
    file = CurveFile(second, 0)
    file.append(3, {"train/loss": 0.1 + 0.2, "lr-SGD": 1e-300})
    file.close()
    target = tmp_path / "results" / "x"
    copies = publish(tmp_path / "logs", target)
    assert sorted(path.name for path in target.iterdir()) == ["curves.csv.gz", "diagnostics.npz.xz", "records.jsonl"]
    assert list(find_records(tmp_path / "results")) == sorted(copies) == [target / first.name, target / second.name]
    assert list(find_records(copies[0])) == [copies[0]]
    assert read_curves(target / first.name) == read_curves(first)
    assert read_curves(target / second.name) == {"train/loss": [(3, 0.1 + 0.2)], "lr-SGD": [(3, 1e-300)]}
    assert array_names(target / first.name) == ["gradients", "mistakes", "predictions", "responses"]
    assert array_names(target / second.name) == []
    for name in ("gradients", "responses"):
        before, after = load_arrays(first, name), load_arrays(target / first.name, name)
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    with pytest.raises(FileNotFoundError):
        load_arrays(target / second.name, "gradients")
    with pytest.raises(InputError, match="not a run directory"):
        read_record(target / "missing")


def test_publishing_again_adds_runs_and_gives_the_same_bytes(tmp_path: Path) -> None:
    target = tmp_path / "results" / "x"
    directory = write_run(tmp_path / "a", "plain20", 1, 1.0, 9.0, points=5)
    write_diagnostics(directory, 20, False, 1)
    publish(tmp_path / "a", target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    publish(tmp_path / "a", target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    write_run(tmp_path / "b", "plain20", 2, 1.0, 9.0, points=5)
    publish(tmp_path / "b", target)
    assert [read_record(run).seed for run in find_records(target)] == [1, 2]
    assert read_curves(target / directory.name) == read_curves(directory)


def test_a_dirty_tree_and_mixed_source_are_refused_unless_told(tmp_path: Path) -> None:
    target, sweep = tmp_path / "results" / "x", tmp_path / "logs"
    write_run(sweep, "plain20", 1, 1.0, 9.0, points=2, record={"git": {"commit": "a" * 40, "dirty": True}})
    with pytest.raises(InputError, match=r"1 of 1 runs are of source .*(?s:.*)--allow-dirty"):
        publish(sweep, target)
    assert not target.exists()
    publish(sweep, target, allow_dirty=True)
    write_run(sweep, "plain20", 2, 1.0, 9.0, points=2, record={"git": {"commit": "b" * 40, "dirty": False}})
    with pytest.raises(InputError, match=r"of different source: a{40}, b{40}(?s:.*)--allow-mixed"):
        publish(sweep, target, allow_dirty=True)
    publish(sweep, target, allow_dirty=True, allow_mixed=True)
    said = warnings([read_record(run) for run in find_records(target)])
    assert said[0].startswith("1 of 2 records are of source that differed")
    assert "aaaaaaaaaaaa, bbbbbbbbbbbb" in said[1]


def test_a_run_that_spans_two_commits_is_mixed_and_named(tmp_path: Path) -> None:
    parts = [{"git": {"commit": commit * 40, "dirty": False}} for commit in "ab"]
    run = write_run(
        tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=2, record={"stretches": parts, "git": parts[1]["git"]}
    )
    with pytest.raises(InputError, match="different source"):
        publish(tmp_path / "logs", tmp_path / "results")
    assert warnings([read_record(run)])[-1].endswith(f"a change of the source: {run.name}.")


def test_commits_that_change_no_source_are_not_mixed(tmp_path: Path) -> None:
    for seed, commit in enumerate("ab"):
        made_by = {"git": {"commit": commit * 40, "dirty": False}, "code": {"fingerprint": "c0de"}}
        write_run(tmp_path / "logs", "plain20", seed, 1.0, 9.0, points=2, record=made_by)
    assert len(publish(tmp_path / "logs", tmp_path / "results")) == 2


@pytest.mark.parametrize("where", ["metrics.csv", "diagnostics/predictions.npz", "diagnostics"])
def test_links_out_of_a_run_are_not_followed(tmp_path: Path, where: str) -> None:
    run = write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=2)
    write_diagnostics(run, 20, False, 1)
    secret = tmp_path / "secret" / Path(where).name
    secret.parent.mkdir()
    (run / where).rename(secret)
    (run / where).symlink_to(secret)
    with pytest.raises(InputError, match="leads out of the run's directory"):
        publish(tmp_path / "logs", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_fifo_among_the_arrays_blocks_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=2)
    (run / "diagnostics").mkdir()
    os.mkfifo(run / "diagnostics" / "predictions.npz")
    with pytest.raises(InputError, match="not a regular file"):
        publish(tmp_path / "logs", tmp_path / "results")


@pytest.mark.parametrize("name", [RECORDS, CURVES, ARRAYS])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"PK\x03\x04"])
def test_a_damaged_published_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    run = write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=2)
    write_diagnostics(run, 20, False, 1)
    (copy,) = publish(tmp_path / "logs", tmp_path / "results")
    (tmp_path / "results" / name).write_bytes(content)
    assert set(find_records(tmp_path / "results")) <= {copy}
    with pytest.raises((InputError, zipfile.BadZipFile)):
        read_record(copy), read_curves(copy), load_arrays(copy, "responses")


def test_arrays_are_read_by_numpy_and_a_cut_or_inflated_archive_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=2)
    write_diagnostics(run, 20, False, 1)
    (copy,) = publish(tmp_path / "logs", tmp_path / "results")
    path = tmp_path / "results" / ARRAYS
    with lzma.open(path) as file, np.load(file) as arrays:
        assert np.array_equal(arrays[f"{copy.name}/responses/std"], load_arrays(copy, "responses")["std"])
        unpacked = sum(array.nbytes for array in arrays.values())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is cut off"):
        load_arrays(copy, "responses")
    path.write_bytes(whole)
    monkeypatch.setattr(published_files, "MOST_UNPACKED", unpacked)  # the headers are beyond it
    os.utime(path, ns=(1, 1))  # another file than the one that was kept
    with pytest.raises(InputError, match=f"more than {unpacked:,} bytes"):
        load_arrays(copy, "responses")
    with pytest.raises(InputError, match=r"too large for one folder(?s:.*)several folders"):
        publish(tmp_path / "logs", tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_pages_are_tidied_once_and_for_all(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "x"
    made_by = {"git": {"commit": "a" * 40, "dirty": True}}
    write_run(tmp_path / "logs", "plain20", 1, 1.0, 9.0, points=2, record=made_by)
    (copy,) = publish(tmp_path / "logs", folder, allow_dirty=True)
    pictures = {name: picture(value) for value, name in enumerate(("a.png", "b.png", "c.png", "d.png"))}
    (folder / "figures").mkdir()
    (folder / "tables").mkdir()
    for name, content in {**pictures, "a.pdf": b"pdf"}.items():
        (folder / "figures" / name).write_bytes(content)
    (folder / "tables" / "errors.csv").write_text("a,b\n1,2\n")
    (folder / "tables" / "errors.tex").write_text("tex")
    shown = "\n\n".join(f"### T\n\n![T [1]](figures/{name})\n\ncaption" for name in pictures)
    (folder / "README.md").write_text(f"# x\n\nwhat\n\n## First\n\n{shown}\n\nAlso in [tables/](tables/).\n")
    embedded = base64.b64encode(pictures["d.png"]).decode()
    shown_too = f'<img alt="T [1]" src="data:image/png;base64,{base64.b64encode(pictures["a.png"]).decode()}">'
    image = f'<img src="data:image/png;base64,{embedded}">'
    page = f'<h1>x</h1><h2>y</h2>{image}<a href="{copy.name}/">run</a>{shown_too}'
    (folder / "report.html").write_text(page)
    tidy_pages(folder, tmp_path / "results")
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "curves.csv.gz", "diagnostics.npz.xz", "figures", "records.jsonl", "report.html", "tables.csv")
    ]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == ["a.png", "b.png"]
    assert (folder / "tables.csv").read_text() == "# errors\na,b\n1,2\n"
    readme, page = (folder / "README.md").read_text(), (folder / "report.html").read_text()
    assert "T [1]: see [report.html](report.html)." in readme and "(tables/)" not in readme
    for text in (readme, page):
        assert "1 of 1 records are of source that differed from its commit." in text and "../HISTORY.md" in text
    assert f'href="{copy.name}/"' not in page
    assert '<img alt="T [1]" src="figures/' in page and page.count("base64,") == 1
    small = base64.b64decode(page.partition("base64,")[2].partition('"')[0])
    assert Image.open(io.BytesIO(small)).size == (300, 300) and len(small) < len(pictures["d.png"])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    tidy_pages(folder, tmp_path / "results")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def picture(value: int) -> bytes:
    """A picture of many colours."""
    rgb = np.random.RandomState(value).randint(0, 256, (300, 300, 3)).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(rgb).save(written, "PNG")
    return written.getvalue()


def test_the_manifest_notices_every_change_and_the_history_grows(tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_run(tmp_path / "a", "plain20", 1, 1.0, 9.0, points=2)
    publish(tmp_path / "a", results / "x")
    note_publication(results, results / "x")
    write_manifest(results)
    assert json.loads((results / MANIFEST).read_text()) == make_manifest(results)
    assert make_manifest(results)["x"]["runs"] == 1
    first = (results / HISTORY).read_text()
    assert "## x\n\n- Published: 1 run of commit 0123456789ab (records.jsonl " in first
    note_publication(results, results / "x")
    assert (results / HISTORY).read_text() == first
    write_run(tmp_path / "a", "plain20", 2, 1.0, 9.0, points=2)
    publish(tmp_path / "a", results / "x")
    publish(tmp_path / "a", results / "y")
    note_publication(results, results / "y")
    note_publication(results, results / "x")
    lines = [line[:20] for line in (results / HISTORY).read_text().splitlines() if line]
    one, two = "- Published: 1 run o", "- Published: 2 runs "
    assert lines == ["# History of these r", "## x", one, two, "## y", two]
    assert json.loads((results / MANIFEST).read_text()) != make_manifest(results)


@pytest.mark.slow
def test_a_sweep_becomes_a_few_files_with_a_page_a_manifest_and_a_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, folder = tmp_path / "results", tmp_path / "results" / "x"
    for run in write_sweep(tmp_path / "logs" / "x", seeds=2):
        write_diagnostics(run, 56 if "56" in run.name else 20, "resnet" in run.name, 1)
    assert main([str(tmp_path / "logs" / "x"), "--results", str(results)]) == 0
    assert len([path for path in folder.rglob("*") if path.is_file()]) <= 9
    assert len(list(find_records(folder))) == 8
    history = (results / HISTORY).read_text()
    assert "- Published: 8 runs of commit 0123456789ab" in history
    assert json.loads((results / MANIFEST).read_text()) == make_manifest(results)
    page = (folder / "README.md").read_text()
    (folder / "README.md").unlink()
    assert main([str(folder), "--pages", "--results", str(results)]) == 0
    assert (folder / "README.md").read_text() == page
    assert (results / HISTORY).read_text() == history  # nothing was published
    assert json.loads((results / MANIFEST).read_text()) == make_manifest(results)


def test_what_may_not_be_published_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "x", seeds=1, record={"git": {"commit": "a" * 40, "dirty": True}})
    assert main([str(tmp_path / "x"), "--results", str(tmp_path / "results")]) == 2
    assert "--allow-dirty" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    (tmp_path / "results").mkdir()
    for name in (".manifest.json.123.tmp", ".HISTORY.md.123.tmp"):  # of a publication that was killed
        (tmp_path / "results" / name).touch()
    assert main([str(tmp_path / "x"), "--results", str(tmp_path / "results"), "--allow-dirty"]) == 0
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"x", "manifest.json", "HISTORY.md"}
    assert "4 of 4 records are of source that differed" in (tmp_path / "results" / "x" / "README.md").read_text()


def test_pages_of_a_folder_elsewhere_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pages", str(tmp_path / "x"), "--results", str(tmp_path / "results")]) == 2
    assert "is not below" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_half_written_is_in_no_manifest(tmp_path: Path) -> None:
    write_sweep(tmp_path / "logs" / "x", seeds=1)
    publish(tmp_path / "logs" / "x", tmp_path / "results" / STAGING / "x")
    publish(tmp_path / "logs" / "x", tmp_path / "results" / "x")
    assert list(make_manifest(tmp_path / "results")) == ["x"]
