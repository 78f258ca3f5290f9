"""What curves, figures and the tables of classes show, from arrays that are worked by hand."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from depthlab.errors import InputError
from depthlab.records.curve_file import CurveFile, read_curves
from depthlab.report.core.class_tables import class_report, confused_pairs
from depthlab.report.core.collection import collect
from depthlab.report.core.curve_bands import average, read_columns
from depthlab.report.core.diagnostic_figures import confusion_matrices, log_spaced
from depthlab.report.core.diagnostics import read_shown
from depthlab.report.core.figures import strip_plot
from depthlab.report.core.group_curves import read_group_curves, steps_table
from depthlab.report.core.groups import Setting, find_settings, group_runs
from depthlab.report.depth_study.depth_figures import error_vs_depth, parts_of_one_recipe

from .synthetic import write_diagnostics, write_run

ROOT = Path(__file__).resolve().parent.parent.parent


def only_setting(root: Path) -> Setting:
    (setting,) = find_settings(group_runs(collect([root]).runs))
    return setting


def predict(root: Path, network: str, predicted: list[list[int]]) -> None:
    """One run for each list of predictions of six test images with the labels 0, 0, 0, 1, 1, 2."""
    for seed, classes in enumerate(predicted, start=1):
        directory = write_run(root, network, seed, 1.0, 9.0, points=0)
        (directory / "diagnostics").mkdir()
        label = np.array([0, 0, 0, 1, 1, 2])
        np.savez(directory / "diagnostics" / "predictions.npz", label=label, predicted=np.array(classes))


def test_the_classification_report_worked_by_hand(tmp_path: Path) -> None:
    predict(tmp_path, "resnet20", [[0, 0, 1, 1, 1, 0]])
    members = read_shown(only_setting(tmp_path), "predictions", [])
    rows = {row[1]: row[2:] for row in class_report(members, ["a", "b", "c"]).rows}
    assert rows["a"] == (pytest.approx(200 / 3), pytest.approx(200 / 3), pytest.approx(200 / 3), 3)
    assert rows["b"] == (pytest.approx(200 / 3), 100.0, pytest.approx(80.0), 2)
    assert rows["c"] == (0.0, 0.0, 0.0, 1)


def test_the_most_confused_pairs_count_all_runs(tmp_path: Path) -> None:
    predict(tmp_path, "resnet20", [[0, 1, 1, 1, 1, 2], [0, 0, 1, 1, 1, 0]])
    members = read_shown(only_setting(tmp_path), "predictions", [])
    rows = confused_pairs(members, ["a", "b", "c"]).rows
    assert rows == (("resnet20", "a", "b", 3, 50.0), ("resnet20", "c", "a", 1, 50.0))


def test_runs_that_collapsed_onto_different_classes_show_one_run(tmp_path: Path) -> None:
    predict(tmp_path, "plain20", [[0] * 6, [1] * 6])
    predict(tmp_path, "resnet20", [[0, 0, 0, 1, 1, 2]] * 2)
    figure = confusion_matrices(only_setting(tmp_path))
    assert figure.drawing is not None
    assert [axis.get_title() for axis in figure.drawing.axes[:2]] == ["plain20 seed 1", "resnet20"]
    assert "Runs of plain20 predict mostly one class, and not the same one" in figure.caption


def test_a_sweep_without_twins_has_its_confusion_too(tmp_path: Path) -> None:
    predict(tmp_path, "resnet20", [[0, 0, 0, 1, 1, 2]])
    figure = confusion_matrices(only_setting(tmp_path))
    assert figure.drawing is not None
    assert [axis.get_title() for axis in figure.drawing.axes] == ["resnet20", "error by class"]


def test_gradients_are_drawn_at_log_spaced_steps() -> None:
    steps = np.arange(0, 64_001, 100)
    assert [int(steps[idx]) for idx in log_spaced(steps)] == [0, 100, 400, 1300, 4800, 17600, 64000]
    assert log_spaced(np.array([0, 220, 440])) == [0, 1, 2]


def test_the_line_is_broken_where_the_recipe_changes_and_at_unsettled_cells(tmp_path: Path) -> None:
    for network, overrides in (("plain20", {}), ("plain32", {}), ("plain56", {}), ("plain110", {"w": 1})):
        for seed, error in enumerate((1.0, 1.1, 88.0 if network == "plain32" else 1.2)):
            warmup = {"schedule.warmup_steps": 400} if overrides else {}
            write_run(tmp_path, network, seed, error, error, warmup, points=0)
    setting = only_setting(tmp_path)
    parts = parts_of_one_recipe(list(setting.groups), "train/err")
    assert [[group.label for group in part] for part in parts] == [["plain20"], ["plain56"], ["plain110"]]
    caption = error_vs_depth(setting).caption
    assert "Lines are broken where the recipe changes. Only some runs of plain32 settled, so no mean" in caption
    assert "n = 3; 64,000 steps; optimizer sgd; lr 0.1" in caption


def test_every_interval_ends_inside_the_logarithmic_panel(tmp_path: Path) -> None:
    errors = {"plain20": (1.0, 1.4, 1.8), "plain56": (12.0, 30.0, 88.0), "resnet20": (1.0, 1.2, 1.1)}
    for network, values in errors.items():
        for seed, value in enumerate(values):
            write_run(tmp_path, network, seed, value, value, points=0)
    setting = only_setting(tmp_path)
    lowest = min(group.summary("train/err").low or 0.0 for group in setting.groups if group.network != "plain56")
    figure = error_vs_depth(setting)
    assert figure.drawing is not None
    linear, logarithmic = figure.drawing.axes[0], figure.drawing.axes[2]
    assert 0 < logarithmic.get_ylim()[0] < lowest
    assert linear.get_ylim()[1] == pytest.approx(1.08 * 88.0)  # not the 100 of an interval that is not drawn


def test_steps_to_reach_an_error(tmp_path: Path) -> None:
    for seed, curve in enumerate(([60, 40, 15, 12], [70, 45, 25, 9])):
        directory = write_run(tmp_path, "resnet20", seed, 1.0, 9.0, points=0)
        lines = [f"{10 * (i + 1)},1,0.1,{error}" for i, error in enumerate(curve)]
        (directory / "metrics.csv").write_text("step,epoch,lr,train/err\n" + "\n".join(lines) + "\n")
    (group,) = only_setting(tmp_path).groups
    assert steps_table([read_group_curves(group)]).rows == (("resnet20", 2, 20, 35, "40 (1 of 2 runs)"),)


def test_a_strip_plot_joins_recipes_of_one_network_by_seed(tmp_path: Path) -> None:
    for precision in ("32-true", "bf16-mixed"):
        for seed in (1, 2, 3):
            write_run(tmp_path, "resnet20", seed, 1.0, 8.0 + seed, {"trainer.precision": precision}, points=0)
    figure = strip_plot(group_runs(collect([tmp_path]).runs))
    assert figure.drawing is not None
    train, test = figure.drawing.axes
    grey = [line for line in test.lines if line.get_color() == "#bbbbbb"]
    assert sorted(line.get_xdata()[0] for line in grey) == [9.0, 10.0, 11.0]
    assert (train.get_xlabel(), test.get_xlabel()) == ("training error (%)", "test error (%)")


def test_responses_have_a_logarithmic_panel_for_each_kind(tmp_path: Path) -> None:
    from depthlab.report.core.diagnostic_figures import layer_responses

    for network, residual in (("plain20", False), ("resnet20", True)):
        write_diagnostics(write_run(tmp_path, network, 1, 1.0, 9.0, points=0), 20, residual, 1)
    figure = layer_responses(only_setting(tmp_path))
    assert figure.drawing is not None
    assert [(axis.get_title(), axis.get_yscale()) for axis in figure.drawing.axes] == [
        ("plain", "log"),
        ("residual", "log"),
    ]


def test_the_core_knows_nothing_of_the_depth_study() -> None:
    for path in (ROOT / "src" / "depthlab" / "report" / "core").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.startswith("depthlab.report.") and ".core." not in f"{name}."], path


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
