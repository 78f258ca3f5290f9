"""The parts of first_contact, each a process: python -m depthlab_benchmarks.contact_parts PART OUT [--small]"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from depthlab.commands.train import train
from depthlab.config.hardware import device_name, probe
from depthlab.config.schema import TrainerConfig
from depthlab.config.spec import composed_values
from depthlab.records.environment import versions
from depthlab.records.record import read_record
from depthlab.runs.build import build_data
from depthlab.sweeps.mps import MpsDaemons
from depthlab_benchmarks.captured import graphs_on_cpu
from depthlab_benchmarks.contact_checks import correctness, waiting
from depthlab_benchmarks.contact_timing import Contact, timing
from depthlab_benchmarks.recipe import TRAIN


def environment(contact: Contact) -> None:
    """Versions, device, memory, the data's checksums, and whether MPS can be started."""
    hardware = probe()
    contact.note(versions=versions(), machine=str(hardware), cuda=torch.version.cuda)
    contact.say(device_name("cpu" if contact.is_small else "gpu", hardware))
    config = contact.config()
    data = build_data(config)  # reading checks the sums of the files
    contact.note(data=config.data.name, fingerprint=data.fingerprint())
    contact.say(f"{config.data.name}: {data.num_images('train'):,} training images, {data.fingerprint()[:12]}")
    if contact.is_small:
        contact.say("memory and MPS: need a GPU")
        return
    free, total = torch.cuda.mem_get_info()
    contact.note(free_bytes=free, total_bytes=total, driver=_driver())
    said: list[str] = []
    daemons = MpsDaemons("auto", {"0": hardware.gpu_uuids[0]}, said.append)
    daemons.environment("0")
    contact.note(mps=daemons.serves("0"), mps_said=said)
    daemons.close()
    contact.say(f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free; {said[0] if said else 'MPS: -'}")


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version,compute_mode", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "-"


def concurrency(contact: Contact) -> None:
    """Runs an hour while one, two, four, six and eight runs train at a time, with and without MPS."""
    rows = contact.rows("images_per_second")
    has_mps = bool(contact.before("environment").get("mps", not contact.is_small))
    for jobs, mps in sweeps(contact.is_small, has_mps):
        key = f"{jobs} at a time" + (", MPS" if mps == "on" else "")
        if key not in rows:
            rows[key] = {"jobs": jobs, "mps": mps, **_sweep(contact, jobs, mps)}
        contact.note(rows=rows)
        rate = rows[key]["images_per_second"]
        contact.say(f"{key}: {'failed' if rate is None else f'{rate:,.0f} img/s together'}")
    if not has_mps:
        contact.say("MPS: needs a GPU" if contact.is_small else "MPS: cannot be used here")
    if all(row["images_per_second"] is None for row in rows.values()):
        raise SystemExit("no sweep ended well")


def sweeps(is_small: bool, has_mps: bool) -> list[tuple[int, str]]:
    """Jobs at a time, and whether with MPS, which one job does without. What says most comes first."""
    if is_small:
        return [(2, "off")]
    modes = ("on", "off") if has_mps else ("off",)
    return [(1, "off"), *((jobs, mps) for jobs in (4, 8, 2, 6) for mps in modes)]


def _sweep(contact: Contact, jobs: int, mps: str) -> dict[str, Any]:
    logs = contact.scratch()
    steps = 8 if contact.is_small else 8000 if jobs <= 2 else 4000
    place = ["trainer=cpu", "data=digits", "model.depth=8"] if contact.is_small else ["trainer=gpu", "data=cifar10"]
    place += [] if contact.is_small else ["trainer.steps_per_replay=50", "checkpoint.every_steps=null"]
    command = [*TRAIN, "model=resnet20", *place, "logger=csv", f"trainer.max_steps={steps}"]
    command += [f"trainer.val_every_steps={steps}", f"paths.log_dir={logs}", "-m", f"seed=range(1,{jobs + 1})"]
    command += [f"hydra.launcher.jobs_per_device={jobs}", f"hydra.launcher.mps={mps}"]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        return {"images_per_second": None, "seconds": seconds, "output": (done.stdout + done.stderr)[-2000:]}
    rates = [read_record(path.parent).images_per_second for path in logs.rglob("record.json")]
    known = [rate for rate in rates if rate]
    return {"images_per_second": sum(known), "seconds": seconds, "runs": len(known)}


def baseline(contact: Contact) -> None:
    """The benchmark against the plain loop."""
    path = contact.out / ("cpu.json" if contact.is_small else "gpu.json")
    small = ["cpu", "--data", "digits", "--models", "resnet20", "--steps", "2", "--repeats", "1", "--workers", "0"]
    small += ["--override", "model.depth=8"]
    large = ["gpu", "--steps", "200", "--repeats", "3", "--variant", "captured", "trainer.steps_per_replay=50"]
    large += ["--variant", "captured, compiled", "trainer.steps_per_replay=50", "trainer.compile=true"]
    command = [sys.executable, "-m", "depthlab_benchmarks", *(small if contact.is_small else large), "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    if done.returncode:
        raise SystemExit(done.stderr.strip() or done.stdout.strip())
    for comparison in json.loads(path.read_text(encoding="utf-8"))["comparisons"]:
        for name, side in comparison["sides"].items():
            rate = side["summary"]["images_per_second"]["median"]
            contact.say(f"{comparison['title']}, {name}: {rate:,.0f} img/s")
    contact.note(file=path.name)


def settings(contact: Contact) -> None:
    """Write the fastest settings as an option of the group trainer, and have an experiment composed with it."""
    timed = contact.before("timing").get("rows", {})
    rows = {key: row for key, row in timed.items() if "ms" in row and not row["said"]}
    sweeps = [row for row in contact.before("concurrency").get("rows", {}).values() if row["images_per_second"]]
    best = max(sweeps, key=lambda row: float(row["images_per_second"]), default=None)
    tree = as_overrides(rows, best, "cpu" if contact.is_small else "gpu")
    folder = contact.out / "trainer"
    folder.mkdir(exist_ok=True)
    header = f"# @package _global_\n# Written by scripts/first_contact.py on {_device(contact)}.\n"
    (folder / "measured.yaml").write_text(header + yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    words = ["--config-dir", str(contact.out), "-m", "experiment=cifar10_depth", "trainer=measured"]
    done = subprocess.run([*TRAIN, *words, "seed=1", "dry_run=true"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    contact.note(settings=tree)
    contact.say(f"python train.py {' '.join(words)}")


def _device(contact: Contact) -> str:
    return device_name("cpu" if contact.is_small else "gpu", probe())


def as_overrides(rows: dict[str, dict[str, Any]], best: dict[str, Any] | None, accelerator: str) -> dict[str, Any]:
    """The content of trainer/measured.yaml.

    Args:
        rows: milliseconds of a step by network and way.
        best: the number of jobs with the most images a second, and whether with MPS; None where none was measured.
        accelerator: what was measured.
    """
    ways: dict[str, list[float]] = {}
    for key, row in rows.items():
        ways.setdefault(key.partition(", ")[2], []).append(row["ms"])
    complete = {way: sum(ms) for way, ms in ways.items() if len(ms) == max(map(len, ways.values()))}
    fastest = min(complete, key=complete.__getitem__, default="ordinary")
    # Every key: an option of a group cannot be made of another one of the same group, which it replaces.
    trainer = {**composed_values(TrainerConfig), "accelerator": accelerator, "compile": "compiled" in fastest}
    if "captured" in fastest and accelerator == "gpu":
        trainer["steps_per_replay"] = 50
    if "compiled" in fastest:
        trainer["compile_scope"] = "blocks" if "blocks" in fastest else "network"
    launcher = {"jobs_per_device": best["jobs"], "mps": {"on": "auto", "off": "off"}[best["mps"]]} if best else {}
    return {"trainer": trainer, **({"hydra": {"launcher": launcher}} if launcher else {})}


PARTS: dict[str, Callable[[Contact], None]] = {
    part.__name__: part for part in (environment, correctness, waiting, timing, concurrency, baseline, settings)
}


def main() -> int:
    """One part, or a run that captures its steps on a CPU too."""
    if sys.argv[1] == "train":
        with graphs_on_cpu():
            return train(sys.argv[2:])
    name, out, *small = sys.argv[1:]
    contact = Contact(name, Path(out), bool(small))
    if small:
        torch.set_num_threads(1)
    contact.note()
    PARTS[name](contact)
    contact.note()
    return 0


if __name__ == "__main__":
    sys.exit(main())
