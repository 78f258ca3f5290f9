"""A diagnosis as findings, tables, a figure and a page, from the plain data that `depthlab diagnose` measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from depthlab.config.console import TextConsole
from depthlab.report.core import style
from depthlab.report.core.document import Document, Finding, Section
from depthlab.report.core.figures import Figure
from depthlab.report.core.page import to_html
from depthlab.report.core.table import Cell, Table
from depthlab.report.core.terminal import COLOURS, grid

PAGE = "diagnosis.html"
FIGURE = "gradients"
MOST_ROWS = 30  # of a table in the terminal

MEASURES = {
    "parameters": "num_params",
    "multiply-adds": "num_macs",
    "forward, ms": "forward_ms",
    "forward and backward, ms": "step_ms",
    "weights, MiB": "params_mib",
    "kept, MiB": "kept_mib",
}

Found = dict[str, Any]


def write_page(found: Found, folder: Path) -> Document:
    """Write diagnosis.html and the figure of the gradients into `folder`; the document."""
    document = describe(found)
    for figure in document.figures:
        style.save(figure.drawing, folder, figure.name)
    (folder / PAGE).write_text(to_html(document, folder), encoding="utf-8")
    return document


def print_diagnosis(found: Found, document: Document, page: Path) -> None:
    """The findings, the layers and the comparison in a terminal."""
    console = TextConsole(soft_wrap=True)
    console.print(f"{document.title}: {document.summary}")
    for finding in findings(found):
        console.print(f"{finding.title}: {finding.word}.", style=COLOURS[finding.tone], end=" ")
        console.print(finding.text)
    layers = {**found, "layers": [row for row in found["layers"] if row["num_macs"]]}  # without norms
    for table in (_without(layers_table(layers), "kind"), speed_table(found)):
        console.print(grid(table, MOST_ROWS))
    if len(layers["layers"]) > MOST_ROWS:
        console.print(f"{len(layers['layers']) - MOST_ROWS} more layers with weights are on the page.")
    console.print(f"page: {page}")


def _without(table: Table, name: str) -> Table:
    """A table without one of its columns: 80 characters hold the others."""
    place = table.header.index(name)
    rows = tuple(row[:place] + row[place + 1 :] for row in table.rows)
    return replace(table, header=table.header[:place] + table.header[place + 1 :], rows=rows)


def describe(found: Found) -> Document:
    """The page's parts."""
    network = found["network"]
    size = " x ".join(map(str, network["images"][1:]))
    summary = (
        f"{network['num_params']:,} parameters in {network['num_tensors']} tensors, {network['num_macs']:,} "
        f"multiply-adds for an image of {size}; {network['images'][0]} images of {network['data'] or 'the batch'}, "
        f"seed {network['seed']}, {found['weights']}; torch {network['torch']}, {network['threads']} thread(s)."
    )
    dead = [(row["after"], row["before"], row["dead"], row["units"]) for row in found["units"] if row["dead"]]
    checked = tuple(f"{kind}: {meaning}." for kind, meaning in found["checked"].items())
    sections = [
        Section("Findings", findings=tuple(findings(found))),
        Section("Gradients", figures=(gradient_figure(found),)),
        Section("Layers", tables=(layers_table(found),)),
        Section("Tensors", tables=(tensors_table(found),)),
        Section("Dead units", tables=(_dead_table(dead),)),
        *([Section("Streams", tables=(streams_table(found["streams"]),))] if found["streams"] else []),
        Section("Speed and memory", tables=(speed_table(found),)),
        Section("What is checked", lines=checked),
    ]
    title = f"Diagnosis of {network['name']}"
    return Document(title, "Does every part of the network compute, and does it learn?", summary, tuple(sections))


def findings(found: Found) -> list[Finding]:
    """Defects first, then what was measured, judged."""
    defects = [Finding(each["kind"], each["where"], f"{each['text']}.", "bad") for each in found["defects"]]
    none = Finding("Defects", "none", f"{len(found['checked'])} kinds were looked for.", "good")
    return [*(defects or [none]), *_tensor_findings(found), *_gradient_findings(found), *_other_findings(found)]


def _tensor_findings(found: Found) -> list[Finding]:
    trained = [row for row in found["tensors"] if row["trains"]]
    reached = [row for row in trained if row["gradient"]]
    moved = [row for row in trained if row["moved"]]
    return [
        Finding(title, f"{len(rows)} of {len(trained)}", text, "good" if len(rows) == len(trained) else "bad")
        for title, rows, text in (
            ("Tensors that a gradient reaches", reached, "All that train are counted."),
            ("Tensors that one step moves", moved, "With the configured optimiser and the rate of the first step."),
        )
    ]


def _gradient_findings(found: Found) -> list[Finding]:
    gradients = found["gradients"]
    made = []
    if "ratio" in gradients:
        (small, least), (large, most) = gradients["smallest"], gradients["largest"]
        text = f"From {least:.3g} ({small}) to {most:.3g} ({large}): a ratio of {gradients['ratio']:.3g}."
        tone = "good" if gradients["verdict"] == "even" else "open"
        made.append(Finding("Largest to smallest gradient", gradients["verdict"], text, tone))
    for stream in gradients["streams"]:
        of = f" of {stream['stream']}" if stream["stream"] else ""
        if stream["growth"] is not None:
            text = (
                f"{stream['growth']:.3f} a layer towards the input, {stream['total']:.3g} over "
                f"{stream['fitted_layers']} layers (log-linear fit)."
            )
            tone = "good" if stream["verdict"] == "steady" else "open"
            made.append(Finding(f"Gradient{of}", stream["verdict"], text, tone))
    return made


def _other_findings(found: Found) -> list[Finding]:
    made = []
    dead, units = (sum(row[key] for row in found["units"]) for key in ("dead", "units"))
    word, tone = (f"{dead} of {units}", "open") if dead else ("none", "good")
    made.append(Finding("Dead units", word, "Channels that are zero for every image of the batch, by layer.", tone))
    if found["streams"]:
        difference = found["streams"]["difference"]
        text = f"Colour alone and brightness alone add up to the output; largest difference {difference:.3g}."
        made.append(Finding("Streams", "additive" if difference < 1e-4 else "not additive", text, "good"))
    if len(found["speed"]) > 1:
        own, other = found["speed"]
        pairs = (("step_ms", "time a step"), ("num_params", "parameters"), ("kept_mib", "memory for the gradient"))
        text = ", ".join(f"{own[key] / other[key]:.3g} times the {words}" for key, words in pairs if other[key])
        made.append(
            Finding(f"Against {other['network']}", "measured in turns", f"{text[0].upper()}{text[1:]}.", "open")
        )
    return made


def layers_table(found: Found) -> Table:
    """Every module with parameters of its own, with the gradient's norm of its weights."""
    norms = {row["tensor"]: row["gradient"] for row in found["tensors"]}
    dead = {row["before"]: row["dead"] for row in found["units"]}
    rows = tuple(
        (
            row["layer"],
            row["kind"],
            " x ".join(map(str, row["output"])),
            row["num_params"],
            row["num_macs"],
            _digits(norms.get(f"{row['layer']}.weight")),
            dead.get(row["layer"]),
        )
        for row in found["layers"]
    )
    header = ("layer", "kind", "output", "parameters", "multiply-adds", "gradient", "dead inputs")
    caption = (
        "Multiply-adds for one image. Gradient: L2 norm of the mean loss's gradient for the weights. Dead inputs: "
        "channels that the layer receives and that are zero for the whole batch."
    )
    return Table("layers", caption, header, rows)


def tensors_table(found: Found) -> Table:
    """Every tensor: whether it trains, its gradient and whether one step moves it."""
    rows = tuple(
        (
            row["tensor"],
            " x ".join(map(str, row["shape"])),
            row["num_values"],
            "yes" if row["trains"] else "no",
            _digits(row["gradient"]),
            "yes" if row["moved"] else "no",
            _digits(row["step"]),
        )
        for row in found["tensors"]
    )
    header = ("tensor", "shape", "values", "trains", "gradient", "moves", "L2 norm of the step")
    return Table("tensors", "One step of the configured optimiser, weight decay included.", header, rows)


def streams_table(streams: Found) -> Table:
    """Each stream alone."""
    rows = tuple(tuple(row.values()) for row in streams["alone"])
    header = ("stream", "parameters", "tensors", "mean |score|", "agrees with both")
    return Table(
        "streams", "Agrees: the part of the images with the same first class, in evaluation mode.", header, rows
    )


def speed_table(found: Found) -> Table:
    """The networks beside each other, and their ratio."""
    rows: list[tuple[Cell, ...]] = []
    for words, key in MEASURES.items():
        values = [row[key] for row in found["speed"]]
        is_pair = len(values) == 2 and values[1]
        rows.append((words, *values, *([values[0] / values[1]] if is_pair else [])))
    names = tuple(row["network"] for row in found["speed"])
    caption = (
        f"Medians for {found['network']['images'][0]} images on the CPU in float32, the networks in turns. Kept: what "
        "is stored of the forward pass for the gradient."
    )
    return Table("speed", caption, ("", *names, *(("ratio",) if len(names) == 2 else ())), tuple(rows))


def _dead_table(rows: Sequence[tuple[Cell, ...]]) -> Table:
    return Table("dead", "Of the same batch.", ("after", "before", "dead", "units"), tuple(rows))


def _digits(value: float | None) -> str | None:
    """Norms differ by many powers of ten."""
    return None if value is None else f"{value:.3g}"


def gradient_figure(found: Found) -> Figure:
    """The norms of the weights' gradients along each stream, on a logarithmic axis."""
    title = "The gradient from the first layer to the last"
    streams = [each for each in found["gradients"].get("streams", []) if any(norm > 0 for norm in each["norms"])]
    if not streams:
        return Figure(FIGURE, title, "no gradient was measured", None)
    with style.look():
        drawing, axes = style.new_figure(1, 1, 7.5, 3.2)
        for place, stream in enumerate(streams):
            look = {"color": style.COLOURS[place], "marker": style.MARKERS[place]}
            norms = [norm if norm > 0 else float("nan") for norm in stream["norms"]]
            axes[0][0].plot(range(1, len(norms) + 1), norms, label=stream["stream"] or "network", markersize=3, **look)
        axes[0][0].set(yscale="log", xlabel="layer with weights, from the input on", ylabel="norm of the gradient")
        axes[0][0].xaxis.get_major_locator().set_params(integer=True)
        style.label_powers(axes[0][0])
        if len(streams) > 1:
            axes[0][0].legend()
    return Figure(FIGURE, title, "Weights of convolutions and linear layers; projections are left out.", drawing)
