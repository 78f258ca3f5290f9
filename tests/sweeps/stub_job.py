"""A job without training: reads a frozen configuration and does what plan.json in the log folder says of its seed.

Its plan may hold: seconds (how long it takes), code (its exit code), fails (how many attempts fail), status,
reason (why it failed), saving (how long a checkpoint takes), stubborn (takes no notice of SIGTERM), child (starts
another process), detached (which does not die with it).
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import depthlab
from depthlab.records.directory import Held, claim
from depthlab.records.record import write_record


def main() -> int:
    frozen = json.loads(Path(sys.argv[1]).read_text())
    config = frozen["config"]
    log_dir = Path(config["paths"]["log_dir"])
    plan = json.loads((log_dir / "plan.json").read_text()).get(str(config["seed"]), {})
    directory = log_dir / config["name"] / Path(sys.argv[1]).stem[4:]
    stopped = []
    note = signal.SIG_IGN if plan.get("stubborn") else lambda *_: stopped.append(True)
    signal.signal(signal.SIGTERM, note)
    try:
        with claim(directory):
            if is_done(directory) and not config["rerun"]:
                return 0
            return work(frozen, plan, directory, stopped)
    except Held:
        return 73


def is_done(directory: Path) -> bool:
    path = directory / "record.json"
    return path.exists() and json.loads(path.read_text())["status"] in ("finished", "diverged")


def work(frozen: dict, plan: dict, directory: Path, stopped: list) -> int:
    config = frozen["config"]
    trace(config, "start")
    attempts = directory / "attempts"
    count = len(attempts.read_text()) if attempts.exists() else 0
    attempts.write_text("x" * (count + 1))
    if plan.get("child"):
        start_child(config, dies="detached" not in plan)
    begun, seconds = time.monotonic(), plan.get("seconds", 0.05)
    while time.monotonic() - begun < seconds:
        if stopped:
            time.sleep(plan.get("saving", 0))
            write_record(directory, record(frozen, "running"))
            trace(config, "stop")
            return 75
        time.sleep(0.005)
    code = plan.get("code", 1) if count < plan.get("fails", 99 if "code" in plan else 0) else 0
    print(f"stub seed {config['seed']} ends with {code}")
    write_record(directory, record(frozen, plan.get("status", "finished") if code == 0 else "failed", plan))
    trace(config, "end")
    return code


def start_child(config: dict, dies: bool) -> None:
    """A second process, which dies with this one as those of a DDP job do, or does not."""
    code = "import time; from depthlab.sweeps.job_process import die_with_parent as die\n"
    code += f"{f'die({os.getpid()})' if dies else 'pass'}; print('ready', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    trace(config, "child", child.pid)


def record(frozen: dict, status: str, plan: dict | None = None) -> dict:
    config = frozen["config"]
    err = 10.0 + config["seed"]
    return {
        "status": status,
        "name": config["name"],
        "seed": config["seed"],
        "command": frozen["command"],
        "config": config,
        "model": {"name": config["model"]["name"], "num_params": 1_000_000},
        "data": {"name": config["data"]["name"]},
        "metrics": {"test/err": err, "train/err": 1.0, "val/err": None} if status == "finished" else {},
        "steps": config["trainer"]["max_steps"],
        "wall_seconds": 50.0,
        "stretches": [{"training_seconds": 40.0}],
        "device": "cpu: stub",
        "failure": {"reason": (plan or {}).get("reason", "planned")} if status == "failed" else None,
    }


def trace(config: dict, event: str, pid: int | None = None) -> None:
    line = {
        "event": event,
        "seed": config["seed"],
        "at": time.time(),
        "pid": pid or os.getpid(),
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": os.environ["OMP_NUM_THREADS"],
        "num_threads": config["trainer"]["num_threads"],
        "code": depthlab.__file__,
    }
    with (Path(config["paths"]["log_dir"]) / "trace.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # at once, so that the moment it notes as its end is the end
