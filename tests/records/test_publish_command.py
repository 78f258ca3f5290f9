"""depthlab publish: from a sweep's folder to a committed one with its page, manifest and history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from depthlab.commands.publish import main
from depthlab.records.atomic_files import STAGING
from depthlab.records.provenance import HISTORY, MANIFEST, make_manifest
from depthlab.records.publishing import publish
from depthlab.records.record import find_records

from ..report.synthetic import write_diagnostics, write_sweep


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
