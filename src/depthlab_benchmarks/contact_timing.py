"""How long steps take on a new device: milliseconds, nodes of the graph, memory and the longest kernels."""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from depthlab.config.check import check
from depthlab.config.commandline import composed
from depthlab.config.folder import config_dir
from depthlab.config.hardware import probe, resolve
from depthlab.config.schema import TrainConfig
from depthlab.training.capture import Capture, Replay, cuda_graph
from depthlab.training.compiling import compile_training
from depthlab_benchmarks.captured import Bench, configured, counted_graph, longest_kernels, stand_in

# The ways to take steps, each with its parts.
WAYS = {
    "ordinary": (),
    "captured": ("captured",),
    "compiled": ("compiled",),
    "captured, compiled": ("captured", "compiled"),
}


class Contact:
    """One part at work: where it writes, and what it has found so far.

    Args:
        name: of the part.
        out: the folder of all parts.
        is_small: on the CPU, with a stand-in for CUDA graphs.
    """

    def __init__(self, name: str, out: Path, is_small: bool) -> None:
        self.name = name
        self.out = out
        self.is_small = is_small
        self.found: dict[str, Any] = {"lines": []}

    def note(self, **values: Any) -> None:
        """Add to what was found; the file has it at once, should time run out."""
        self.found.update(values)
        path = self.out / f".{self.name}.result.json"
        path.write_text(json.dumps(self.found), encoding="utf-8")

    def say(self, line: str) -> None:
        """A line of the table at the end."""
        self.found["lines"].append(line)
        self.note()

    def config(self, *overrides: str) -> TrainConfig:
        """A small run of this form's data, device and network, checked and resolved."""
        place = ("trainer=cpu", "data=digits", "model.depth=8", "data.batch_size=16") if self.is_small else ()
        words = ("model=resnet20", *place) if self.is_small else ("model=resnet20", "trainer=gpu", "data=cifar10")
        return configured(lambda rest: composed_here([*words, *rest]), overrides)

    @property
    def capture(self) -> Capture:
        """What captures a step here."""
        return stand_in if self.is_small else cuda_graph

    def scratch(self) -> Path:
        """A new folder, which is removed when the part has ended."""
        place = self.out / ".scratch"
        place.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(dir=place))

    def rows(self, quantity: str) -> dict[str, Any]:
        """The rows of a table that this part had measured before it was cut short."""
        rows = self.before(self.name).get("rows", {})
        return {key: row for key, row in rows.items() if row.get(quantity) is not None}

    def before(self, name: str) -> dict[str, Any]:
        """What an earlier part found, as far as it came."""
        try:
            tree = json.loads((self.out / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return dict(tree.get("result") or {}) if tree.get("small") == self.is_small else {}


def composed_here(overrides: Sequence[str]) -> TrainConfig:
    """The configuration of these overrides, for this machine."""
    config = check(composed(overrides, config_dir()))
    config.trainer = resolve(config.trainer, probe())
    return config


def bench_of(contact: Contact, config: TrainConfig, parts: Sequence[str], capture: Capture | None = None) -> Bench:
    """A bench that takes its steps in one of `WAYS`, given as its parts."""
    bench = Bench(config, (capture or contact.capture) if "captured" in parts else None)
    if "compiled" in parts:
        torch.compiler.reset()
        compile_training(bench.module, config.trainer.accelerator, config.trainer.compile_scope)
    return bench


def timing(contact: Contact) -> None:
    """Milliseconds of a step, nodes of the graph, memory, for three depths and four ways to take steps."""
    rows = contact.rows("ms")
    for cells in _cells(contact.is_small):
        graphs: dict[str, tuple[Bench, Replay]] = {}
        for depth, way, scope in cells:
            key = f"resnet{depth}, {way}" + (f" ({scope})" if scope else "")
            if key not in rows:
                try:
                    rows[key], graph = _time(contact, depth, WAYS[way], scope)
                    graphs |= {} if graph is None else {key: graph}
                except Exception as error:
                    rows[key] = {"error": f"{type(error).__name__}: {error}"[:500]}
            contact.note(rows=rows)
            contact.say(_timing_line(key, rows[key]))
        for key, (_, replay) in graphs.items():  # last: a profiler may slow down what is timed after it
            rows[key] |= _kernels(replay)
            contact.note(rows=rows)
    if contact.is_small:
        contact.say("compiled, nodes, memory and kernels: need a GPU")
    if all("error" in row for row in rows.values()):
        raise SystemExit("nothing could be timed")


def _kernels(replay: Replay) -> dict[str, Any]:
    try:
        return {"kernels": longest_kernels(replay)}
    except Exception as error:  # not every machine lets a program profile its GPU
        return {"kernels_error": f"{type(error).__name__}: {error}"[:500]}


def _cells(is_small: bool) -> list[list[tuple[int, str, str]]]:
    """Depth, way and what is compiled at once; what takes longest to compile comes last, should time run out."""
    if is_small:
        return [[(8, "ordinary", ""), (8, "captured", "")]]
    depths = (20, 56, 110)
    return [
        [(depth, way, "") for depth in depths for way in ("captured", "ordinary")],
        [(depth, way, "blocks") for depth in depths for way in ("captured, compiled", "compiled")],
        [(depth, "captured, compiled", "network") for depth in depths],
    ]


def _timing_line(key: str, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{key}: {row['error'].splitlines()[0][:120]}"
    memory = f", {row['mib']:.0f} MiB" if row["mib"] is not None else ""
    nodes = f", {row['nodes']} nodes" if row["nodes"] is not None else ""
    return f"{key}: {row['ms']:.3g} ms a step{nodes}{memory}, {row['first_seconds']:.0f} s to the first"


def _time(
    contact: Contact, depth: int, parts: Sequence[str], scope: str
) -> tuple[dict[str, Any], tuple[Bench, Replay] | None]:
    """A row of the table; on a GPU the graph too, and what owns the memory that it works on."""
    chunk = 4 if contact.is_small else 50
    words = [f"model.depth={depth}"] if contact.is_small else [f"model=resnet{depth}", "trainer.precision=bf16-mixed"]
    words += [f"trainer.steps_per_replay={chunk}"] + ([f"trainer.compile_scope={scope}"] if scope else [])
    nodes: list[int | None] = []
    replays: list[Replay] = []

    def counting(take_step: Callable[[], None], lasting: Any) -> Replay:
        replay, number = (stand_in(take_step, lasting), None) if contact.is_small else counted_graph(take_step)
        nodes.append(number)
        replays.append(replay)
        return replay

    mib_before = 0.0
    if not contact.is_small:
        gc.collect()  # trainers and modules refer to each other: the network before this one may still be there
        torch.cuda.reset_peak_memory_stats()
        mib_before = torch.cuda.memory_allocated() / 2**20
    started = time.monotonic()
    bench = bench_of(contact, contact.config(*words), parts, counting)
    bench.take(chunk)
    first = time.monotonic() - started
    # Several chunks at a time: the host prepares the next one while the device works.
    chunks = 2 if contact.is_small or "captured" not in parts else 10
    ms = [device_ms(lambda: bench.take(chunks * chunk), contact.is_small) / (chunks * chunk) for _ in range(5)]
    row = {
        "ms": statistics.median(ms),
        "all_ms": ms,
        "nodes": nodes[0] if nodes else None,
        "mib": None if contact.is_small else torch.cuda.max_memory_allocated() / 2**20 - mib_before,
        "first_seconds": first,
        "said": bench.said,
    }
    return row, (bench, replays[0]) if replays and not contact.is_small else None


def device_ms(work: Callable[[], None], on_cpu: bool) -> float:
    """Milliseconds of some work, by events in the device's queue."""
    if on_cpu:
        started = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - started)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch has no types there
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))
