"""What first_contact checks of steps: are they right, and do they wait for the host?"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from depthlab.records.record import read_record
from depthlab.runs.build import build_data
from depthlab_benchmarks.captured import VARIANTS, Bench, differences
from depthlab_benchmarks.contact_timing import WAYS, Contact, bench_of

STEPS = 8
LOSS_TOLERANCE = 0.02  # relative, of losses in bf16 or compiled
KILL_TOLERANCE = 0.25  # relative, of the last training loss: kernels of a GPU add up in another order in each process


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
    bench = bench_of(contact, config, parts)
    losses = []
    for _ in range(STEPS):
        bench.module.train_meter.reset()
        bench.take(1)
        sums = bench.module.train_meter.sums()
        losses.append(float(sums[0] / sums[-3]))
    return losses


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
    code += "from depthlab_benchmarks.contact_checks import one_ordinary_chunk; one_ordinary_chunk()"
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
