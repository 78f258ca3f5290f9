"""A sweep of stub jobs: composes real configurations and launches them as `-m` does, in this process."""

import copy
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from depthlab.config.hardware import Hardware
from depthlab.sweeps.launcher import launch
from depthlab.sweeps.preflight import Request
from depthlab.sweeps.settings import Settings

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STUB = Path(__file__).with_name("stub_job.py")
NAME = "stubs"


def hardware(gpus: int = 0, cores: int = 2) -> Hardware:
    return Hardware("stub", cores, False, ("simulated",) * gpus, False, False)


@functools.cache
def composed(job: tuple[str, ...]) -> DictConfig:
    """A configuration as Hydra composes it; it takes a tenth of a second, so jobs that differ in seeds share it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", ["data=digits", f"name={NAME}", *job])


def request(log_dir: Path, job: str) -> Request:
    """A job, given as its overrides in one string."""
    words = job.split()
    config = copy.deepcopy(composed(tuple(word for word in words if not word.startswith("seed="))))
    for word in words:
        if word.startswith("seed="):
            config.seed = int(word.removeprefix("seed="))
    config.paths.log_dir = str(log_dir)
    return Request(("data=digits", f"name={NAME}", f"paths.log_dir={log_dir}", *words), config)


def sweep(log_dir: Path, *jobs: str, gpus: int = 0, cores: int = 2, **settings: object) -> int:
    """Launch the jobs; the exit code."""
    command = [sys.executable, str(STUB)]
    if not (log_dir / "plan.json").exists():
        (log_dir / "plan.json").write_text("{}")
    return launch(
        [request(log_dir, job) for job in jobs],
        log_dir / NAME / "sweep",
        Settings(**settings),
        command=lambda frozen: [*command, str(frozen)],
        probe=lambda: hardware(gpus, cores),
    )


def seeds(*values: int, model: str = "plain20", more: str = "") -> list[str]:
    """A job for each seed."""
    return [f"model={model} seed={value} {more}" for value in values]


def start_sweep(log_dir: Path, *jobs: str, **options: object) -> subprocess.Popen[str]:
    """The same as `sweep` in a process of its own, to be sent signals."""
    given = json.dumps({"log_dir": str(log_dir), "jobs": jobs, "options": options})
    return subprocess.Popen([sys.executable, __file__, given], stdout=subprocess.PIPE, text=True)


def wait_for(fact: Callable[[], bool], seconds: float = 90.0) -> None:
    """Return once `fact` holds."""
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    sys.exit(sweep(Path(given["log_dir"]), *given["jobs"], **given["options"]))
