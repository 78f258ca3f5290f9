"""metrics.csv: every number exactly, no point twice, and nothing of a row that a kill cut short."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from depthlab.errors import InputError
from depthlab.records.curve_file import COLUMNS, CurveFile, read_curves

ROWS = [(step, {"train/loss": 1 / step, "train/err": 100 / 3 * step, "lr": 0.1}) for step in (3, 6, 9)]


def write(directory: Path, rows: list[tuple[int, dict[str, float]]], continue_from: int = 0) -> None:
    file = CurveFile(directory, continue_from)
    for step, values in rows:
        file.append(step, values)
    file.close()


def text(directory: Path) -> str:
    return (directory / "metrics.csv").read_text()


def test_numbers_come_back_exactly(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, 5e-324, 1 / 3, -0.0, 2.0**60]
    write(tmp_path, [(step, {"val/loss": value}) for step, value in enumerate(values)])
    assert read_curves(tmp_path) == {"val/loss": list(enumerate(values))}


def test_columns_are_the_same_in_every_run(tmp_path: Path) -> None:
    write(tmp_path, [(5, {"val/err": 1.0})])
    assert text(tmp_path).splitlines()[0] == ",".join(COLUMNS)
    assert COLUMNS[0] == "step"


def test_each_curve_has_the_points_that_were_measured(tmp_path: Path) -> None:
    write(tmp_path, [*ROWS, (9, {"val/err": 50.0})])
    curves = read_curves(tmp_path)
    assert curves["val/err"] == [(9, 50.0)]
    assert curves["train/loss"] == [(step, 1 / step) for step in (3, 6, 9)]
    assert set(curves) == {"train/loss", "train/err", "lr", "val/err"}


def test_a_new_name_gets_a_column_and_old_rows_keep_their_values(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    file = CurveFile(tmp_path, 9)
    file.append(9, {"lr-SGD": 0.5})
    file.append(12, {"train/loss": 0.25, "ema, decay": 0.1 + 0.2})
    file.close()
    assert text(tmp_path).splitlines()[0] == ",".join([*COLUMNS, "lr-SGD", '"ema, decay"'])
    curves = read_curves(tmp_path)
    assert curves["train/loss"] == [*((step, 1 / step) for step in (3, 6, 9)), (12, 0.25)]
    assert (curves["lr-SGD"], curves["ema, decay"]) == ([(9, 0.5)], [(12, 0.1 + 0.2)])


def test_a_continuation_keeps_the_columns_and_drops_the_rows_after_its_step(tmp_path: Path) -> None:
    write(tmp_path, [(3, {"lr-SGD": 0.5}), (6, {"lr-SGD": 0.25})])
    write(tmp_path, [(6, {"lr-SGD": 0.125})], continue_from=3)
    assert read_curves(tmp_path) == {"lr-SGD": [(3, 0.5), (6, 0.125)]}


def test_a_column_that_cannot_be_written_leaves_the_rows_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ROWS)
    before, file = text(tmp_path), CurveFile(tmp_path, 9)

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(Path, "replace", fail)
        file.append(12, {"new": 1.0})
    assert text(tmp_path) == before


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb"])
def test_a_name_that_is_no_line_is_refused(tmp_path: Path, name: str) -> None:
    file = CurveFile(tmp_path, 0)
    with pytest.raises(InputError, match="one line of text"):
        file.append(1, {name: 1.0})


def test_names_without_end_are_refused(tmp_path: Path) -> None:
    file = CurveFile(tmp_path, 0)
    with pytest.raises(InputError, match="More than 1,000 names"):
        file.append(1, {f"metric {idx}": 1.0 for idx in range(1000)})


def test_curves_that_would_block_or_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(InputError, match="not a regular file"):
        read_curves(tmp_path)
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").symlink_to("/etc/hosts")
    with pytest.raises(InputError, match="leads out"):
        read_curves(tmp_path)


def test_a_row_is_on_disk_at_once(tmp_path: Path) -> None:
    CurveFile(tmp_path, 0).append(*ROWS[0])
    assert read_curves(tmp_path)["train/loss"] == [(3, 1 / 3)]


@pytest.mark.parametrize(("continue_from", "kept"), [(0, 0), (2, 0), (3, 1), (5, 1), (6, 2), (9, 3), (100, 3)])
def test_a_continuation_drops_what_came_later(tmp_path: Path, continue_from: int, kept: int) -> None:
    write(tmp_path, ROWS)
    whole = text(tmp_path)
    write(tmp_path, ROWS[kept:], continue_from)
    assert text(tmp_path) == whole


def test_a_row_cut_in_any_cell_but_the_last_leaves_no_point(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    lines = text(tmp_path).splitlines(keepends=True)
    for length in range(1, len(lines[-1]) - 3):
        (tmp_path / "metrics.csv").write_text("".join(lines[:-1]) + lines[-1][:length])
        assert [step for step, _ in read_curves(tmp_path)["train/loss"]] == [3, 6]


def test_a_number_cut_short_is_no_number(tmp_path: Path) -> None:
    write(tmp_path, [(3, {"test/err": 12.5}), (6, {"test/err": 11.25})])
    (tmp_path / "metrics.csv").write_text(text(tmp_path).rstrip()[:-2])
    assert read_curves(tmp_path)["test/err"] == [(3, 12.5)]


def test_a_continuation_after_a_cut_row_goes_on_cleanly(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    whole = text(tmp_path)
    (tmp_path / "metrics.csv").write_text(whole[:-20])
    write(tmp_path, ROWS[2:], continue_from=6)
    assert text(tmp_path) == whole


def test_no_file_and_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no metrics\.csv"):
        read_curves(tmp_path)
    for content in ("", "time,loss\n1,2\n"):
        (tmp_path / "metrics.csv").write_text(content)
        with pytest.raises(InputError, match="no column 'step'"):
            read_curves(tmp_path)


def test_a_word_where_a_number_belongs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(",".join(COLUMNS) + "\n1,2,a,,,,,,\n")
    with pytest.raises(InputError, match="'a' is not a number"):
        read_curves(tmp_path)


@pytest.mark.parametrize(
    "row", ["²,1,,,,,,,".encode(), b"1,1,1,1,1,1,1,1,1,1", b"1,\xff,,,,,,,", b"1," + b"1" * 200_000]
)
def test_nonsense_in_a_row_is_refused(tmp_path: Path, row: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(",".join(COLUMNS).encode() + b"\n" + row + b"\n")
    with pytest.raises(InputError):
        read_curves(tmp_path)
