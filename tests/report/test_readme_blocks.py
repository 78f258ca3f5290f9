"""The README's blocks of numbers, from records and benchmark files that are worked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from depthlab.errors import InputError
from depthlab.report.readme_blocks import draw, fill

from .synthetic import write_run, write_sweep

SIDES = {
    "plain loop": {"n": 3, "summary": {"images_per_second": {"median": 440.4}}, "measurements": {}},
    "ours": {
        "n": 3,
        "summary": {"images_per_second": {"median": 1012.0}, "ratio": {"median": 2.3, "quartiles": [2.25, 2.36]}},
        "measurements": {},
    },
}
BENCHMARK = {
    "command": "python scripts/benchmark.py cpu",
    "machine": {"gpus": [], "cpu": "a processor", "cpu_cores": 2},
    "versions": {"torch": "2.15.0"},
    "comparisons": [{"title": "resnet20", "headline": "images_per_second", "sides": SIDES}],
}


def filled(kind: str, name: str, results: Path) -> str:
    return fill(f"before\n<!-- made: {kind} {name} -->\nold\n<!-- end -->\nafter\n", results)


def test_text_around_a_block_stays_and_the_block_is_made_anew(tmp_path: Path) -> None:
    text = filled("speed", "cpu", tmp_path)
    assert text.startswith("before\n<!-- made: speed cpu -->\nNot measured here yet: -\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert fill(text, tmp_path) == text


def test_losses_are_means_over_spans_of_steps_and_have_a_figure(tmp_path: Path) -> None:
    text = filled("losses", "losses", tmp_path)
    assert "Not measured here yet: -" in text
    draw(text, tmp_path)
    assert not list(tmp_path.iterdir())
    sides = {
        "plain loop": {"measurements": {"loss": [4.0, 2.0, 1.5, 1.5, 1.0, 1.0, 0.5, 0.25]}},
        "ours": {"measurements": {"loss": [3.0, 3.0, 2.0, 1.0, 1.0, 0.9, 0.5, 0.5]}},
    }
    tree = BENCHMARK | {
        "options": {"steps": 10, "warmup_steps": 5},
        "comparisons": [{"title": "resnet20", "sides": sides}],
    }
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "losses.json").write_text(json.dumps(tree))
    lines = filled("losses", "losses", tmp_path).splitlines()
    assert "| mean loss, resnet20 | steps 6 to 25 | steps 26 to 45 | steps 46 to 65 | steps 66 to 85 |" in lines
    assert "| plain loop | 3.000 | 1.500 | 1.000 | 0.375 |" in lines
    assert "| ours | 3.000 | 1.500 | 0.950 | 0.500 |" in lines
    draw(text, tmp_path)
    assert (tmp_path / "benchmarks" / "losses.png").stat().st_size > 5000


def test_errors_by_depth_are_means_over_seeds(tmp_path: Path) -> None:
    for seed, test in enumerate([8.0, 9.0, 10.0], start=1):
        write_run(tmp_path / "short", "resnet20", seed, train=2.0, test=test, points=0)
    write_run(tmp_path / "short", "plain56", 1, train=5.0, test=13.0, points=0)
    lines = filled("depths", "short", tmp_path).splitlines()
    assert "| error, % | 20 | 56 |" in lines
    assert "| residual, test | 9.00 ± 1.00 | - |" in lines
    assert "| plain, training | - | 5.00 (one run) |" in lines
    assert any(line.startswith("Mean ± standard deviation over seeds, n = 1 to 3;") for line in lines)


def test_published_numbers_stand_above_ours(tmp_path: Path) -> None:
    write_run(tmp_path / "full", "resnet56", 1, train=0.1, test=6.9, points=0)
    text = filled("published", "full", tmp_path)
    assert "| residual, paper | 8.75 | 7.51 | 7.17 | 6.97 | 6.61 ± 0.16 |" in text
    assert "| plain, paper | ≈ 9.68 | ≈ 10.12 | ≈ 11.40 | ≈ 13.25 | - |" in text
    assert "| residual, five seeds | 8.13 ± 0.20 | 7.67 ± 0.47 | 7.31 ± 0.35 | 6.93 ± 0.23 | - |" in text
    assert "| **residual, here** | - | - | - | 6.90 (one run) | - |" in text
    assert "| **plain, here** | - | - | - | - | - |" in text
    assert "- Ours are not comparable. No published number was made under these conditions: data.val_size is" in text


def test_comparable_runs_carry_the_verdict_on_the_published_number(tmp_path: Path) -> None:
    for seed, test in enumerate([8.7, 8.75, 8.8], start=1):
        write_run(tmp_path / "full", "resnet20", seed, 0.1, test, {"data.val_size": 0}, points=0)
    lines = filled("published", "full", tmp_path).splitlines()
    assert "- resnet20: reproduced. Ours 8.75 ± 0.05 (95 % CI 8.63 to 8.87), paper 8.75." in lines
    assert not any("five seeds" in line for line in lines if line.startswith("- "))


def test_one_run_has_no_deviation_and_no_verdict(tmp_path: Path) -> None:
    write_run(tmp_path / "full", "resnet20", 1, 0.1, 8.6, {"data.val_size": 0}, points=0)
    text = filled("published", "full", tmp_path)
    assert "- resnet20: no interval. Ours 8.60 (one run), paper 8.75.\n" in text
    assert "\nOne run; 64,000 steps; " in text and "; it took " in text
    write_run(tmp_path / "full", "plain20", 1, 0.1, 9.6, {"data.val_size": 0}, points=0)
    text = filled("published", "full", tmp_path)
    assert "\nOne run each; 64,000 steps; " in text and "; the longest run took " in text
    assert "standard deviation" not in text


def test_several_recipes_have_rows_of_their_own(tmp_path: Path) -> None:
    for rate in (0.01, 0.1):
        for network, error in (("plain20", 1.0), ("plain56", 5.0), ("resnet20", 1.0)):
            write_run(tmp_path / "r", network, 1, error + rate, 9.0, {"optimizer.lr": rate}, points=0)
    lines = filled("depths", "r", tmp_path).splitlines()
    assert "| plain, lr=0.01, training | 1.01 (one run) | 5.01 (one run) |" in lines
    assert "| residual, lr=0.1, training | 1.10 (one run) | - |" in lines


def test_recipes_carry_the_interval_that_decides(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for precision, shift in (("32-true", 0.0), ("bf16-mixed", 0.01 * seed)):
            overrides = {"trainer.precision": precision}
            write_run(tmp_path / "p", "resnet20", seed, 1.0, 8.0 + shift, overrides=overrides, points=0)
    text = filled("recipes", "p", tmp_path)
    assert "| resnet20 (precision=32-true) | 3 | 1.00 ± 0.00 | 8.00 ± 0.00 |" in text
    assert "resnet20 (precision=bf16-mixed) tests 0.02 points worse than resnet20 (precision=32-true) (95 % CI" in text


def test_findings_are_the_claims_of_the_report(tmp_path: Path) -> None:
    write_sweep(tmp_path / "s", points=0)
    text = filled("findings", "s", tmp_path)
    assert "- Degradation: shown. plain56 trains 4." in text
    assert "- No degradation with shortcuts: shown. resnet56 trains" in text


def test_folds_show_the_folds_own_errors(tmp_path: Path) -> None:
    for fold in range(3):
        overrides = {"data.fold": fold, "data.num_folds": 3}
        write_run(tmp_path / "f", "plain20", 1, 1.0, 9.0 + fold, overrides, points=0)
    text = filled("recipes", "f", tmp_path)
    assert "| network | n | training error, % | validation error, % | test error, % |" in text
    assert "| plain20 | 3 | 1.00 ± 0.00 | 10.30 ± 1.00 | 10.00 ± 1.00 |" in text


def test_speed_names_machine_versions_command_and_n(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "cpu.json").write_text(json.dumps(BENCHMARK))
    text = filled("speed", "cpu", tmp_path)
    assert "| resnet20 | img/s | n | ratio (quartiles) |" in text
    assert "| ours | 1012 | 3 | 2.30 (2.25 to 2.36) |" in text
    assert "a processor, 2 cores; torch 2.15.0; `python scripts/benchmark.py cpu`" in text


def test_speed_names_the_settings_of_each_side_where_they_are_known(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    known = {name: {**side, "settings": f"32-true, {name}"} for name, side in SIDES.items()}
    tree = BENCHMARK | {"comparisons": [{"title": "resnet20", "sides": known}]}
    (tmp_path / "benchmarks" / "gpu.json").write_text(json.dumps(tree))
    lines = filled("speed", "gpu", tmp_path).splitlines()
    place = lines.index("- plain loop: 32-true, plain loop")
    assert lines[place - 1 : place + 3] == ["", "- plain loop: 32-true, plain loop", "- ours: 32-true, ours", ""]


def test_an_unknown_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such kind of block"):
        filled("sped", "cpu", tmp_path)
