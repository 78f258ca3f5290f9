"""What first_contact does with steps: are they right, do they wait for the host, how long do they take."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthlab.config.check import check
from depthlab.config.commandline import composed
from depthlab.config.folder import config_dir
from depthlab.config.hardware import probe, resolve
from depthlab.config.schema import TrainConfig
from depthlab.records.record import read_record
from depthlab.runs.build import build_data
from depthlab.training.capture import Capture, Replay, cuda_graph
from depthlab.training.compiling import compile_training
from depthlab_benchmarks.captured import (
    VARIANTS,
    Bench,
    configured,
    counted_graph,
    differences,
    longest_kernels,
    stand_in,
)

STEPS = 8
LOSS_TOLERANCE = 0.02  # relative, of losses in bf16 or compiled
KILL_TOLERANCE = 0.25  # relative, of the last training loss: kernels of a GPU add up in another order in each process
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


def correctness(contact: Contact) -> None:
    """Captured against ordinary steps for every variant; compiled ones by their losses; a kill across the two."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which deterministic cuBLAS asks for
    wrong = []
    for name, overrides in VARIANTS.items():
        try:
            said = _compare(contact, overrides)
        except Exception as error:
            said = [f"{type(error).__name__}: {error}".splitlines()[0][:300]]
        contact.note(**{name: said[:20]})
        wrong += [name] if said else []
    contact.say(f"{len(VARIANTS) - len(wrong)} of {len(VARIANTS)} variants equal bit for bit over {STEPS} steps")
    for name in wrong:
        contact.say(f"{name}: {contact.found[name][0]}")
    wrong += _compare_losses(contact)
    wrong += _kill_and_continue(contact)
    if wrong:
        raise SystemExit(f"not equal: {', '.join(wrong)}")


def _compare(contact: Contact, overrides: Sequence[str]) -> list[str]:
    """What differs after eight steps in chunks of three, captured and not."""
    says_precision = any(word.startswith("trainer.precision") for word in overrides)
    precision = () if says_precision else ("trainer.precision=32-true",)
    shared = ("trainer.deterministic=true", "trainer.steps_per_replay=3", "schedule.warmup_steps=5")
    config = contact.config(*shared, *precision, *overrides)
    states: list[dict[str, Tensor]] = []
    data = build_data(config)  # which takes longer than the steps
    for capture in (None, contact.capture):
        bench = Bench(config, capture, data)
        bench.take(STEPS)
        if bench.said:
            return bench.said
        states.append(bench.state())
    return differences(*states)


def _compare_losses(contact: Contact) -> list[str]:
    """bf16 and compiled: what is computed in another order agrees within rounding. The ways that do not."""
    if contact.is_small:
        contact.say("compiled: needs a GPU")
        return []
    losses: dict[str, list[float]] = {}
    wrong = []
    for way, parts in WAYS.items():
        try:
            losses[way] = _losses(contact, parts)
        except Exception as error:
            wrong.append(way)
            contact.say(f"{way}: {type(error).__name__}: {error}".splitlines()[0][:200])
            continue
        contact.note(losses=losses)
        off = largest_difference(losses[way], losses.get("ordinary", losses[way]))
        wrong += [way] if off > LOSS_TOLERANCE else []
        verdict = "agrees" if off <= LOSS_TOLERANCE else "DIFFERS"
        contact.say(f"bf16, {way}: {verdict} with ordinary steps, losses within {100 * off:.2g} %")
    return wrong


def largest_difference(losses: Sequence[float], expected: Sequence[float]) -> float:
    """The largest relative difference of two series of losses; infinite where one of them is no number."""
    off = [abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True)]
    return max(each if math.isfinite(each) else math.inf for each in off)


def _losses(contact: Contact, parts: Sequence[str]) -> list[float]:
    config = contact.config("trainer.precision=bf16-mixed", "trainer.steps_per_replay=1", "schedule.warmup_steps=20")
    bench = _bench(contact, config, parts)
    losses = []
    for _ in range(STEPS):
        bench.module.train_meter.reset()
        bench.take(1)
        sums = bench.module.train_meter.sums()
        losses.append(float(sums[0] / sums[-3]))
    return losses


def _bench(contact: Contact, config: TrainConfig, parts: Sequence[str], capture: Capture | None = None) -> Bench:
    bench = Bench(config, (capture or contact.capture) if "captured" in parts else None)
    if "compiled" in parts:
        torch.compiler.reset()
        compile_training(bench.module, config.trainer.accelerator, config.trainer.compile_scope)
    return bench


def _kill_and_continue(contact: Contact) -> list[str]:
    """A captured run that is killed, and goes on with ordinary steps, against one that was never killed."""
    steps, saved = (40, 10) if contact.is_small else (2000, 500)
    shared = [f"trainer.max_steps={steps}", f"trainer.val_every_steps={steps}", f"logger.every_steps={saved}"]
    shared += [f"checkpoint.every_steps={saved}", "logger=csv", "trainer.precision=32-true", "optimizer.lr=0.01"]
    place = ["trainer=cpu", "data=digits", "model.depth=8"] if contact.is_small else ["trainer=gpu", "data=cifar10"]
    captured, logs = f"trainer.steps_per_replay={saved // 2}", contact.scratch()
    words = ["model=resnet20", *place, *shared, f"paths.log_dir={logs}"]
    whole = _run([*words, "name=whole", captured], None)
    _run([*words, "name=cut", captured], logs / "cut")
    cut = _run([*words, "name=cut"], None)
    one, other = (next((logs / name).glob("*/record.json")).parent for name in ("whole", "cut"))
    records = read_record(one), read_record(other)
    losses = [float(record.metrics["train/loss"] or math.nan) for record in records]
    contact.note(killed={"codes": [whole, cut], "train_loss": losses, "segments": len(records[1].segments)})
    off = largest_difference(losses[1:], losses[:1])
    contact.say(
        f"killed and continued with ordinary steps: training loss {losses[1]:.4f}, uninterrupted {losses[0]:.4f} "
        f"({100 * off:.2g} % apart; {len(records[1].segments)} segments)"
    )
    if len(records[1].segments) < 2:
        raise SystemExit("the kill came too late: nothing was continued")
    return ["the run that was killed"] if off > KILL_TOLERANCE else []


def _run(words: Sequence[str], kill_in: Path | None) -> int:
    """A run in a process of its own; killed after its first checkpoint, where the folder of its name is given."""
    command = [sys.executable, "-m", "depthlab_benchmarks.contact_parts", "train", *words]
    process = subprocess.Popen(command)
    while process.poll() is None:
        if kill_in is not None and [*kill_in.glob("*/checkpoints/*.ckpt")]:
            process.send_signal(signal.SIGKILL)
            return process.wait()
        time.sleep(0.02)
    return process.returncode


def waiting(contact: Contact) -> None:
    """A warm chunk in which every wait for the device is an error, and an ordinary step under the CUDA sanitizer."""
    config = contact.config("trainer.precision=bf16-mixed", "trainer.steps_per_replay=20")
    bench = Bench(config, contact.capture)
    bench.take(40)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        bench.take(40)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    if bench.said:
        raise SystemExit(bench.said[0])
    contact.say("two warm chunks: nothing waits for the device")
    code = "from torch.cuda._sanitizer import enable_cuda_sanitizer as on; on(); import sys; "
    code += "from depthlab_benchmarks.contact_steps import one_ordinary_chunk; one_ordinary_chunk()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False)
    contact.note(sanitizer=done.stderr[-2000:])
    if done.returncode:
        raise SystemExit(f"the CUDA sanitizer: {done.stderr.strip().splitlines()[-1:]}")
    contact.say("an ordinary chunk under the CUDA sanitizer: no race between streams")


def one_ordinary_chunk() -> None:
    """Two ordinary steps on a GPU."""
    config = Contact("waiting", Path(), False).config("trainer.precision=32-true", "trainer.steps_per_replay=2")
    Bench(config, None).take(2)
    torch.cuda.synchronize()


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
    bench = _bench(contact, contact.config(*words), parts, counting)
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
