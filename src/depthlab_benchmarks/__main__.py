"""Measure speed, this project against a plain PyTorch loop: python scripts/benchmark.py cpu

cpu, gpu   end to end against a loop with torchvision's transforms, a DataLoader and fp32
input      the input path alone against torchvision's loader
startup    from the command to the first step, by parts; --help, --cfg job, tab completion
overhead   a whole run against a bare loop with the same mathematics
sweep      jobs through the launcher, one at a time against several at a time
memory     the most memory of training steps, activations kept and stages recomputed

Each side is a process of its own, stopped while another side is measured. Prints medians and ratios; every single
measurement goes into a JSON file. DEPTHLAB_DATA_DIR names the folder that holds CIFAR-10 and MNIST.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from depthlab.config.console import TextConsole
from depthlab.config.hardware import Hardware, probe_in_subprocess
from depthlab.errors import InputError
from depthlab_benchmarks.inputs import compare_inputs
from depthlab_benchmarks.measure import Comparison
from depthlab_benchmarks.memory import compare_memory
from depthlab_benchmarks.settings import FACTORS, Settings
from depthlab_benchmarks.sides import SideFailed
from depthlab_benchmarks.startup import measure_startup
from depthlab_benchmarks.sweep import compare_sweeps
from depthlab_benchmarks.tables import as_table, as_tree, write_json
from depthlab_benchmarks.training import compare_with_bare_loop, compare_with_baseline

MODES = {
    "cpu": compare_with_baseline,
    "gpu": compare_with_baseline,
    "input": compare_inputs,
    "startup": measure_startup,
    "overhead": compare_with_bare_loop,
    "sweep": compare_sweeps,
    "memory": compare_memory,
}
# Steps in a turn, turns, networks and data unless the command line says otherwise. A turn takes about two seconds.
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"steps": 15, "turns": 10, "models": ["resnet20", "resnet56"], "data": "cifar10"},
    "gpu": {"steps": 500, "turns": 10, "models": ["resnet20", "resnet56"], "data": "cifar10"},
    "input": {"steps": 100, "turns": 20, "models": ["resnet20"], "data": "cifar10"},
    "startup": {"steps": 1, "turns": 7, "models": ["resnet20"], "data": "cifar10"},
    "overhead": {"steps": 20, "turns": 20, "models": ["resnet20"], "data": "cifar10"},
    "sweep": {"steps": 440, "turns": 3, "models": ["resnet20"], "data": "digits"},
    "memory": {"steps": 1, "turns": 1, "models": ["resnet110"], "data": "cifar10"},
}


def main() -> int:
    """Measure, print, write; 2 if it cannot be measured here, 1 if a side failed."""
    arguments = _parse()
    # Stopped sides would outlive this process; its exit handlers end them.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        hardware = probe_in_subprocess()
        if arguments.mode == "gpu" and not hardware.gpus:
            raise InputError("mode gpu: torch sees no CUDA GPU here. Mode cpu measures the same on the CPU.")
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            if arguments.jobs is None:
                arguments.jobs = [1, 2, 4, 8] if hardware.gpus and arguments.accelerator != "cpu" else [1, 2]
            settings = _settings(arguments, Path(folder))
            comparisons = MODES[arguments.mode](settings)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SideFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _print(arguments, settings, hardware, comparisons)
    return 0


def _print(
    arguments: argparse.Namespace, settings: Settings, hardware: Hardware, comparisons: list[Comparison]
) -> None:
    """Print the tables and write the file."""
    console = TextConsole() if sys.stdout.isatty() else TextConsole(width=160)
    for comparison in comparisons:
        console.print(as_table(comparison), "")
    options = {key: value for key, value in dataclasses.asdict(settings).items() if key != "folder"}
    command = shlex.join([*_program(), *sys.argv[1:]])
    write_json(as_tree(arguments.mode, command, options, hardware, comparisons), arguments.out)
    console.print(f"every measurement: {arguments.out}", highlight=False)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--models", nargs="+", help="networks (resnet20; with resnet56 in modes cpu and gpu)")
    parser.add_argument("--data", help="cifar10, mnist or digits (cifar10; digits in mode sweep)")
    parser.add_argument("--steps", type=_count, help="steps in a turn, or in a job of a sweep")
    parser.add_argument("--repeats", type=_count, dest="turns", help="turns of each side")
    parser.add_argument(
        "--starts", type=_count, default=1, help="fresh processes of each side, with --repeats turns each"
    )
    parser.add_argument("--workers", type=int, default=4, help="of the plain loop's DataLoader (4)")
    parser.add_argument("--accelerator", default=None, help="cpu or gpu in the other modes (auto)")
    parser.add_argument("--jobs", type=_count, nargs="+", help="of mode sweep: jobs at a time (1 2; 1 2 4 8 on a GPU)")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="for every side")
    parser.add_argument(
        "--variant", action="append", nargs="+", default=[], metavar="NAME KEY=VALUE", help="one more side of ours"
    )
    parser.add_argument(
        "--factors",
        nargs="*",
        choices=FACTORS,
        help="modes cpu and gpu: also the plain loop with one of these alone (without a name: with each)",
    )
    parser.add_argument("--out", type=Path, help="the JSON file (logs/benchmark/MODE.json)")
    arguments = parser.parse_args()
    for key, value in DEFAULTS[arguments.mode].items():
        if getattr(arguments, key) is None:
            setattr(arguments, key, value)
    arguments.out = arguments.out or Path("logs/benchmark") / f"{arguments.mode}.json"
    return arguments


def _program() -> list[str]:
    is_module = Path(sys.argv[0]).name == "__main__.py"
    return ["python", "-m", "depthlab_benchmarks"] if is_module else ["python", "scripts/benchmark.py"]


def _settings(arguments: argparse.Namespace, folder: Path) -> Settings:
    accelerator = arguments.mode if arguments.mode in ("cpu", "gpu") else arguments.accelerator or "auto"
    return Settings(
        folder=folder,
        models=tuple(arguments.models),
        data=arguments.data,
        steps=arguments.steps,
        turns=arguments.turns,
        starts=arguments.starts,
        num_workers=arguments.workers,
        accelerator=accelerator,
        overrides=tuple(arguments.override),
        variants={name: tuple(overrides) for name, *overrides in arguments.variant},
        factors=() if arguments.factors is None else tuple(arguments.factors or FACTORS),
        jobs=tuple(arguments.jobs),
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
