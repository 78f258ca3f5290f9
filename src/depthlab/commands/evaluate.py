"""Evaluate a finished run again, from its directory alone: depthlab evaluate run=logs/NAME/RUN

run=DIR               the run; its metrics of every split are printed beside the recorded ones
split=train|val|test  of which split the rest is said: errors, loss, calibration, each class, confused pairs (test)
data=FOLDER|NAME      measure other images of the same classes: a folder with a folder for each class, or a data set
ensemble=RUN,RUN      average the probabilities of these runs and `run`; also says how any two of them differ
tta=flip              average an image and its mirror image
weights=last|ema      the run's last weights, or the averages of callbacks=ema
out=FOLDER            keep evaluation.json and reliability.png there
data_dir=DIR          where the data are now
accelerator=cpu|gpu   another device than the run's
--json                print JSON
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table
from rich.text import Text

from depthlab.commands.predict import open_for
from depthlab.config.console import TextConsole
from depthlab.config.program import key_values
from depthlab.errors import InputError
from depthlab.records.atomic_files import replacing
from depthlab.records.metrics import describe
from depthlab.records.record import read_record
from depthlab.shown_text import as_json

if TYPE_CHECKING:
    from depthlab.runs.open_run import OpenRun

OTHERWISE = ("split", "data", "ensemble", "tta", "weights")  # with one of these the run is not measured as it was
OPTIONS = ("run", *OTHERWISE, "out", "data_dir", "accelerator")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the metrics beside the recorded ones; 0 if the errors are equal, 1 if not, 2 on a mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        options = key_values(arguments, OPTIONS, ("run",))
        is_other = bool(set(OTHERWISE) & set(options)) or Path(options["run"]).is_file()
        agrees, result = (True, {}) if is_other else _again(options)
        result |= _assess(options, is_other)
        if options.get("out"):
            _keep(Path(options["out"]), result)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if "json" in options:
        print(as_json(result))
    else:
        _show(result)
    return 0 if agrees else 1


def _again(options: dict[str, str]) -> tuple[bool, dict[str, Any]]:
    """Every split as the end of the run measured it, and whether the main metric is what the record says."""
    record = read_record(Path(options["run"]))
    from depthlab.runs.evaluate import evaluate_run  # imports torch, which takes seconds: after most mistakes

    data_dir = options.get("data_dir") or os.environ.get("DEPTHLAB_DATA_DIR")
    metrics = evaluate_run(options["run"], data_dir, options.get("accelerator"))
    recorded = {name: record.metrics.get(name) for name in sorted(metrics)}
    main_metric = describe(record).main
    compared = {name: value for name, value in metrics.items() if name == main_metric.key(name.partition("/")[0])}
    agrees = all(_agree(recorded.get(name), value, main_metric.unit) for name, value in compared.items())
    return agrees, {"metrics": dict(sorted(metrics.items())), "recorded": recorded}


def _agree(recorded: float | None, value: float, unit: str) -> bool:
    """Percentages count images and are equal; other metrics may differ in their last digits."""
    if recorded is None:
        return True
    return recorded == value if unit == "%" else math.isclose(recorded, value, rel_tol=1e-6)


def _assess(options: dict[str, str], is_asked: bool) -> dict[str, Any]:
    """What there is to say of the answers to one split; where it is not asked for, of finished runs with classes."""
    from depthlab.runs import assess

    split, data = options.get("split", "test"), options.get("data")
    runs = [_open(options, path) for path in [options["run"], *filter(None, options.get("ensemble", "").split(","))]]
    first = runs[0]
    if not is_asked and not (first.record.data.get("classes") and first.record.status == "finished"):
        return {}
    question = assess.ask(first, split, data)
    for other in runs[1:]:
        assess.check_alike(first, other, split, data)
    weights, tta = options.get("weights", "last"), options.get("tta")
    members = [assess.log_probabilities(run, _images(run, question, data), weights, tta) for run in runs]
    result: dict[str, Any] = {"run": first.name, "on": question.name, "weights": weights, "tta": tta}
    result["summary"] = assess.summarize(assess.average(members), question.labels, first.classes)
    if len(runs) > 1:
        names = [run.name for run in runs]
        result["ensemble"] = {"runs": names, **assess.ensemble_gain(members, question.labels)}
        result["pairs"] = assess.pairs(names, members, question.labels)
    elif data is None and tta is None:
        recorded = first.record.metrics if weights == "last" else first.record.metrics_ema or {}
        result["recorded_err"] = recorded.get(f"{split}/err")
    return result


def _open(options: dict[str, str], path: str) -> OpenRun:
    return open_for({**options, "run": path})


def _images(run: OpenRun, question: Any, data: str | None) -> Any:
    """A folder's images are read anew for each run: each scales them to its own size."""
    return data if data is not None and Path(data).is_dir() else question.images


def _keep(folder: Path, result: dict[str, Any]) -> None:
    """evaluation.json, and the reliability figure."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "evaluation.json") as temporary:
            temporary.write_text(as_json(result) + "\n", encoding="utf-8")
        if "summary" in result:
            from depthlab.report.core.diagnostic_figures import draw_reliability

            title = f"{_who(result)}\n{result['on']}"
            draw_reliability(folder / "reliability.png", result["summary"]["reliability"], title)
    except OSError as error:
        raise InputError(f"out={folder}: it cannot be written ({error.strerror}).") from None


def _show(result: dict[str, Any]) -> None:
    for name, value in result.get("metrics", {}).items():
        print(f"{name:12} {value!r:24} recorded {result['recorded'].get(name)!r}")
    if "summary" not in result:
        return
    console, summary = TextConsole(), result["summary"]
    console.print(Text(f"\n{_who(result)} on {result['on']}, {summary['num_images']:,} images", style="bold"))
    console.print(_numbers(result))
    console.print(_classes(summary["classes"]))
    for pair in summary["confused"]:
        console.print(Text(f"{pair['images']:6,} x {pair['class']} taken for {pair['predicted']}"))
    if "ensemble" in result:
        _show_ensemble(console, result)


def _who(result: dict[str, Any]) -> str:
    """Whose answers were measured."""
    if "ensemble" not in result:
        return str(result["run"])
    return f"Mean probabilities of {len(result['ensemble']['runs'])} runs"


def _numbers(result: dict[str, Any]) -> Table:
    summary = result["summary"]
    table = Table("error %", "top-5 error %", "loss", "calibration error", box=None)
    cells = [f"{summary['err']:.2f}", f"{summary['err_top5']:.2f}" if "err_top5" in summary else "-"]
    if result.get("recorded_err") is not None:
        cells[0] += f" (recorded {result['recorded_err']:.2f})"
    table.add_row(*cells, f"{summary['loss']:.4f}", f"{summary['ece']:.4f}")
    return table


def _classes(report: dict[str, dict[str, float]]) -> Table:
    table = Table("class", "precision", "recall", "F1", "support", box=None)
    for name, row in report.items():
        numbers = (f"{row[key]:.3f}" for key in ("precision", "recall", "f1-score"))
        table.add_row(Text(name), *numbers, f"{row['support']:,.0f}")
    return table


def _show_ensemble(console: TextConsole, result: dict[str, Any]) -> None:
    found = result["ensemble"]
    table = Table(Column("run", overflow="fold"), "error %", box=None)
    for name, error in zip(found["runs"], found["members"], strict=True):
        table.add_row(Text(name), f"{error:.2f}")
    low, high = found["interval"]
    table.add_row("mean of the probabilities", f"{found['err']:.2f}")
    console.print(table)
    console.print(
        f"The ensemble is {found['gain']:.2f} points better than the mean of its members (95 % CI {low:.2f} to "
        f"{high:.2f}, bootstrap over {found['num_images']:,} images)."
    )
    table = Table(
        Column("first", overflow="fold"),
        Column("second", overflow="fold"),
        "agreement %",
        "only first wrong",
        "only second wrong",
        "McNemar p",
        box=None,
    )
    for pair in result["pairs"]:
        counts = f"{pair['only_first']:,}", f"{pair['only_second']:,}"
        table.add_row(
            Text(pair["first"]), Text(pair["second"]), f"{pair['agreement']:.2f}", *counts, f"{pair['p']:.3g}"
        )
    console.print(table)
