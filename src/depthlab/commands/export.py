"""Write the network of a run for use elsewhere: depthlab export run=logs/NAME/RUN format=onnx

run=DIR                               a finished run, or a checkpoint file by itself
format=onnx|torch_export|safetensors  what to write
int8=static|dynamic                   INT8 by onnxruntime; static is calibrated on training images
out=FOLDER                            where to (exports/RUN)
weights=last|ema                      the run's last weights, or the averages of callbacks=ema
data_dir=DIR                          where the data are now
--json                                print JSON

Preprocessing is inside: the input is uint8 (n, H, W, C) of the run's size, for any n; the output is scores, float32.
The file is loaded again and compared with the network on the whole test set. One that answers otherwise is not kept.
A model card, README.md, is written beside it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from depthlab.commands.predict import open_for
from depthlab.config.console import TextConsole
from depthlab.config.identity import flatten
from depthlab.config.program import key_values
from depthlab.errors import InputError
from depthlab.records.metrics import describe
from depthlab.records.publishing import without_places
from depthlab.records.record import Record, find_records, read_record
from depthlab.report.core.statistics import Sample, summarize
from depthlab.shown_text import as_json, counted, fenced, for_markdown

if TYPE_CHECKING:
    from depthlab.runs.export import Row
    from depthlab.runs.open_run import OpenRun

OPTIONS = ("run", "format", "int8", "out", "weights", "data_dir")
CARD = "README.md"
RECIPE = (
    *("optimizer.name", "optimizer.lr", "optimizer.weight_decay", "schedule.name", "trainer.max_steps"),
    *("data.batch_size", "data.normalization", "trainer.precision", "seed"),
)
LOADING = {
    ".onnx": (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("{file}")',
        'scores = session.run(["scores"], {{"images": images}})[0]',
    ),
    ".pt2": (
        "import torch",
        'network = torch.export.load("{file}").module()',
        "scores = network(torch.from_numpy(images))",
    ),
    ".safetensors": (
        "import depthlab",
        'run = depthlab.open_run("{file}")',
        "scores = run.outputs(images)",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, compare, and print the comparison; the exit code, 2 on a mistake or where the comparison fails."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        options = key_values(arguments, OPTIONS, ("run", "format"))
        result = _export(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(as_json(result)) if "json" in options else _show(result)
    return 0


def _export(options: dict[str, str]) -> dict[str, Any]:
    from depthlab.runs.export import check_format, export  # imports torch, which takes seconds

    check_format(options["format"], options.get("int8"))
    run = open_for({**options, "accelerator": "cpu"})
    out = Path(options.get("out") or Path("exports") / run.name)
    with tempfile.TemporaryDirectory() as temporary, TextConsole(stderr=True).status("export, load, compare"):
        folder = Path(temporary)
        rows = export(run, folder, options["format"], options.get("int8"), options.get("weights", "last"))
        file = next(folder.glob("model.*"))
        (folder / CARD).write_text(model_card(run, rows, file.name), encoding="utf-8")
        try:
            out.mkdir(parents=True, exist_ok=True)
            for path in (file, folder / CARD):
                shutil.copyfile(path, out / path.name)
        except OSError as error:
            raise InputError(f"out={out}: it cannot be written ({error.strerror}).") from None
    return {
        "run": run.name,
        "file": str(out / file.name),
        "card": str(out / CARD),
        "rows": [asdict(row) for row in rows],
    }


def _show(result: dict[str, Any]) -> None:
    titles = [f"ms, batch {size}" for size in result["rows"][0]["latency_ms"]]
    table = Table("network", "MB", "test error %", "largest difference", *titles, box=None)
    for row in result["rows"]:
        table.add_row(row["what"], *_cells(row))
    console = TextConsole()
    console.print(table)
    console.print(result["file"], soft_wrap=True)
    console.print(result["card"], soft_wrap=True)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        "-" if row["megabytes"] is None else f"{row['megabytes']:.2f}",
        "-" if row["err"] is None else f"{row['err']:.2f}",
        "-" if row["difference"] is None else f"{row['difference']:.2g}",
        *(f"{milliseconds:.2f}" for milliseconds in row["latency_ms"].values()),
    ]


def model_card(run: OpenRun, rows: Sequence[Row], file: str) -> str:
    """What the network is, on what and how it was trained, how well it does, and how it is loaded, as Markdown."""
    record, shape, threads = run.record, run.preprocessing.image_shape, run.record.num_threads or 1
    titles = [
        "network",
        "MB",
        "test error %",
        "largest difference",
        *(f"ms, batch {size}" for size in rows[0].latency_ms),
    ]
    table = [" | ".join(titles), " | ".join("---" for _ in titles)]
    table += [" | ".join([row["what"], *_cells(row)]) for row in map(asdict, rows)]
    flat = flatten(record.config)
    size = " x ".join(str(number) for number in shape)
    return "\n".join(
        [
            f"# {for_markdown(record.model['name'])} on {for_markdown(record.data['name'])}\n",
            f"{record.model['num_params']:,} parameters, {record.model['num_macs']:,} multiply-adds an image. Input: "
            f"`images`, uint8 (n, {size}): height, width, channels. Output: `scores`, float32 (n, "
            f"{record.data['num_classes']}). The preprocessing ({flat.get('data.normalization')}) is inside.\n",
            *([f"Classes: {for_markdown(', '.join(run.classes))}.\n"] if run.classes else []),
            f"Data: {for_markdown(record.data['name'])}, {record.data['num_train']:,} training, "
            f"{record.data.get('num_val', 0):,} validation and {record.data['num_test']:,} test images (fingerprint "
            f"{record.data.get('fingerprint')}).\n",
            "## Results\n",
            *_results(run),
            "\nAs exported, on the whole test set:\n",
            *(f"| {line} |" for line in table),
            "\nLatencies are medians, the networks in turns, "
            f"{record.device if record.device and record.device.startswith('cpu') else 'on the CPU'}, "
            f"{counted(threads, 'thread')}.\n",
            "## How it was trained\n",
            *fenced(without_places(record.command)),
            "",
            *(f"- {key}: {for_markdown(str(flat[key]))}" for key in RECIPE if key in flat),
            f"- recipe: {record.recipe}",
            f"- commit: {_commit(record)}\n",
            "## How to load it\n",
            "```python",
            *(line.format(file=file) for line in LOADING[Path(file).suffix]),
            "```\n",
        ]
    )


def _results(run: OpenRun) -> list[str]:
    """The run's own numbers, and the mean over the finished runs beside it that differ in their seed alone."""
    metric = describe(run.record).main
    key = metric.key("test")
    lines = [f"- this run: {metric.header('test')} {_number(run.record.metrics.get(key))} (as recorded)"]
    values = {}
    folder = run.place.parent
    for directory in find_records(folder) if folder.is_dir() and run.place.is_dir() else ():
        record = read_record(directory)
        same = record.recipe == run.record.recipe and record.data.get("fingerprint") == run.record.data.get(
            "fingerprint"
        )
        value = record.metrics.get(key)
        if same and record.status == "finished" and value is not None:
            values[record.run or directory.name] = value
    if len(values) > 1:
        found = summarize(Sample(values, high=metric.max or float("inf"), low=0.0))
        interval = "" if found.low is None else f", 95 % CI of the mean {_number(found.low)} to {_number(found.high)}"
        lines.append(f"- mean over seeds: {_number(found.mean)} (n = {found.n}, sd {_number(found.sd)}{interval})")
    else:
        lines.append("- n = 1: there is no interval")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _commit(record: Record) -> str:
    git = record.git or {}
    if not git.get("commit"):
        return "-"
    return f"{git['commit']}{', with changes that no commit has' if git.get('dirty') else ''}"
