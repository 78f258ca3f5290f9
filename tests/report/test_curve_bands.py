"""Curves: every logged point counts, whatever the file's state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from depthlab.errors import InputError
from depthlab.records.curve_file import CurveFile, read_curves
from depthlab.report.core.curve_bands import average, read_columns


def _write(directory: Path, rows: int) -> None:
    directory.mkdir(exist_ok=True)
    file = CurveFile(directory, 0)
    for step in range(1, rows + 1):
        values = {"train/err": 100 / step} | ({"val/err": 200 / step} if step % 10 == 0 else {})
        file.append(step, values)
    file.close()


def test_the_fast_way_reads_what_read_curves_reads(tmp_path: Path) -> None:
    _write(tmp_path, 500)
    columns = read_columns(tmp_path, ("train/err", "val/err", "test/err"))
    slow = read_curves(tmp_path)
    assert columns.keys() == {"train/err", "val/err"}
    for name, (step, value) in columns.items():
        assert list(zip(step, value, strict=True)) == slow[name]


def test_a_line_that_a_kill_cut_short_is_no_point(tmp_path: Path) -> None:
    _write(tmp_path, 20)
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "21,0.1,0.1,")
    step, _ = read_columns(tmp_path, ("train/err",))["train/err"]
    assert step[-1] == 20


def test_nan_is_no_point_of_a_curve(tmp_path: Path) -> None:
    file = CurveFile(tmp_path, 0)
    file.append(1, {"train/err": 50.0})
    file.append(2, {"train/err": float("nan")})
    file.close()
    step, value = read_columns(tmp_path, ("train/err",))["train/err"]
    assert (list(step), list(value)) == ([1.0], [50.0])


@pytest.mark.parametrize("content", [None, "", "hello\n", "a,b\n1,2\n", "step,train/err\n1,abc\n"])
def test_a_file_that_is_no_curve_file_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(InputError, match=r"metrics\.csv|curve file"):
        read_columns(tmp_path, ("train/err",))


def test_short_curves_are_averaged_point_by_point() -> None:
    step = np.array([10.0, 20.0])
    band = average([(step, np.array([4.0, 2.0])), (step, np.array([6.0, 1.0]))], 20)
    assert (list(band.step), list(band.mean), list(band.low), list(band.high)) == (
        [10.0, 20.0],
        [5.0, 1.5],
        [4.0, 1.0],
        [6.0, 2.0],
    )


def test_long_curves_are_binned_and_no_point_is_dropped() -> None:
    step = np.arange(1.0, 64001.0)
    value = np.zeros(64000)
    value[12345] = 160.0  # one high point among 160 of its bin
    band = average([(step, value)], 64000)
    assert band.num_points == 64000
    assert len(band.step) == 400
    assert band.mean.max() == pytest.approx(1.0)
    assert band.mean.mean() == pytest.approx(value.mean())
