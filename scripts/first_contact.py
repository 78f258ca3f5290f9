"""The first minutes of a GPU: is it right, how fast is it, and with which settings: python scripts/first_contact.py

Seven parts, each in a process of its own with a time limit. What a part found is in OUT/NAME.json as soon as it ends;
a part that fails does not stop the next. The same line again goes on with the parts that are not done, and keeps what a
part that was cut short had measured. Without a GPU a small form runs on the CPU, with a stand-in for CUDA graphs, and
says which parts need a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from depthlab.config.hardware import probe_in_subprocess
from depthlab.runs.parent import die_with_parent
from depthlab_benchmarks.sides import last_lines
from depthlab_benchmarks.tables import write_json

OK, FAILED, LATE, NEEDS_GPU = "ok", "failed", "out of time", "needs a GPU"
CUT, LEFT = "cut short", "not yet"
DONE = (OK, NEEDS_GPU)
SMALL_SECONDS = 180  # of a part in the small form, which takes that long altogether on a quiet machine
SCRATCH = ".scratch"  # in the folder of the parts: what a part writes for itself


@dataclass(frozen=True)
class Part:
    """A part, what it is for, and the seconds that it may take: on a GPU, and in the small form if it has one."""

    name: str
    purpose: str
    seconds: int
    small_seconds: int | None = SMALL_SECONDS


PARTS = (
    Part("environment", "versions, memory, data, MPS", 90),
    Part("correctness", "captured steps against ordinary ones, a kill, a continuation", 240),
    Part("waiting", "no step waits for the host; the sanitizer", 120, None),
    Part("timing", "ms a step, nodes, memory, the longest kernels", 420),
    Part("concurrency", "runs at a time, with and without MPS", 300),
    Part("baseline", "benchmark.py gpu: against the plain loop", 300),
    Part("settings", "the best of it all as trainer=measured", 60),
)


def main() -> int:
    """Run the parts; 0 where each is done or needs a GPU that is not there."""
    arguments = _parse()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    arguments.out.mkdir(parents=True, exist_ok=True)
    is_small = arguments.small or not probe_in_subprocess().gpus
    console = Console() if sys.stdout.isatty() else Console(width=160)
    until = math.inf if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    found = {}
    for part in PARTS:
        if not arguments.parts or part.name in arguments.parts:
            found[part.name] = _part(part, arguments.out, is_small, arguments.again, until, console)
    console.print(_table(found))
    missing = [name for name, tree in found.items() if tree["status"] not in DONE]
    if missing:
        console.print(f"The same line goes on with: {', '.join(missing)}", highlight=False)
    return 1 if missing else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all unless named: {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=Path("logs/first_contact"), help="folder (logs/first_contact)")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="start no part that may not end within N minutes from now"
    )
    parser.add_argument("--small", action="store_true", help="the small form on the CPU, also where there is a GPU")
    parser.add_argument("--again", action="store_true", help="repeat parts that are done")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.parts if name not in names]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}. The parts are {', '.join(names)}.")
    return arguments


def _part(part: Part, out: Path, is_small: bool, again: bool, until: float, console: Console) -> dict[str, Any]:
    """What a part found, now or before; its file is written in any case."""
    path, result_path = out / f"{part.name}.json", out / f".{part.name}.result.json"
    limit = part.small_seconds if is_small else part.seconds
    head = {"part": part.name, "small": is_small, "limit_seconds": limit}
    if again:
        path.unlink(missing_ok=True)
    elif (cut := _read(result_path)) is not None:  # of a call that was killed
        write_json({**head, "status": CUT, "seconds": 0, "result": cut, "output": ""}, path)
    before = _read(path)
    if before is not None and before.get("status") in DONE and before.get("small") == is_small:
        console.print(f"{part.name}: done before ({before['status']})", highlight=False)
        return before
    if limit is None:
        tree = {**head, "status": NEEDS_GPU, "seconds": 0, "result": {"lines": [NEEDS_GPU]}, "output": ""}
        write_json(tree, path)
        return tree
    if time.monotonic() + limit > until:
        return {**head, "status": LEFT, "seconds": 0, "result": {"lines": [f"may take {limit} s"]}, "output": ""}
    console.print(f"{part.name}: {part.purpose} ...", highlight=False)
    result_path.unlink(missing_ok=True)
    started = time.monotonic()
    code, said = _run(part.name, out, is_small, limit)
    result = _read(result_path)  # as far as the part came: it writes after every measurement
    status = LATE if code is None else (result or {}).get("status", OK) if code == 0 and result else FAILED
    tree = {
        **head,
        "status": status,
        "seconds": round(time.monotonic() - started, 1),
        "result": result,
        "output": said if status in (FAILED, LATE) else "",
    }
    write_json(tree, path)
    result_path.unlink(missing_ok=True)
    shutil.rmtree(out / SCRATCH, ignore_errors=True)
    console.print(f"{part.name}: {status}, {tree['seconds']} s", highlight=False)
    return tree


def _run(name: str, out: Path, is_small: bool, seconds: int) -> tuple[int | None, str]:
    """Exit code, None where time ran out, and the end of the output of a part's process and all that it started."""
    command = [sys.executable, "-m", "depthlab_benchmarks.contact_parts", name, str(out), *["--small"] * is_small]
    parent = os.getpid()
    log = out / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509 - there is one thread
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    return code, last_lines(log.read_text(encoding="utf-8", errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the part and what it started; by SIGTERM first, which a sweep passes on."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGTERM:
            time.sleep(0.2)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _table(found: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "status", "s", "found"):
        table.add_column(heading)
    for name, tree in found.items():
        lines = (tree["result"] or {}).get("lines") or tree["output"].splitlines()[-3:] or ["-"]
        table.add_row(name, tree["status"], f"{tree['seconds']:.0f}", "\n".join(lines))
    return table


if __name__ == "__main__":
    sys.exit(main())
