"""The command `depthlab`, also started as `python -m depthlab`."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module

from depthlab.config.program import program_words
from depthlab.runs.exits import end_with, prepare_signals

COMMANDS = {
    "train": "train a run or a sweep; --help lists groups, options and keys",
    "report": "turn the records of sweeps into tables, figures and a page",
    "status": "list runs with state, step, error and age",
    "extend": "train a finished run for more steps",
    "evaluate": "evaluate a finished run again, alone or in an ensemble: errors, calibration, classes",
    "predict": "name the classes of images with a run's network",
    "explain": "show where in an image a run finds its answer",
    "diagnose": "check every tensor of a network: gradients, steps, dead units, speed",
    "export": "write a run's network for deployment: ONNX, torch.export or safetensors, INT8",
    "publish": "copy the runs of a sweep into results/ and write their report there",
    "data": "show a data set on one page: classes, duplicates, mean images, augmentation",
    "show_batch": "save a training batch as a picture",
}
ELSEWHERE = {"show_batch": ("data", "show_batch")}  # module and function of a command without a module of its own
COMPLETION = "-sc"  # with this the shell asks for completions, without the name of a command
TRAIN_LINE = re.compile(r"^\s*(\S*python\S*\s+-m\s+)?\S*depthlab\s+train\s+")


def main() -> int:
    """Run the command named first; the exit code."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    program = " ".join(program_words(sys.argv))
    if name == COMPLETION:
        name, arguments = "train", sys.argv[1:]
    if COMPLETION in arguments:  # Hydra takes every word but the first for an override
        os.environ["COMP_LINE"] = TRAIN_LINE.sub("depthlab ", os.environ.get("COMP_LINE", ""))
    if name in ("-h", "--help"):
        print(_usage(program))
        return 0
    if name not in COMMANDS:
        print(f"error: {name}: no such command.\n{_usage(program)}", file=sys.stderr)
        return 2
    if name in ("train", "extend"):
        prepare_signals()  # before the imports, which take a second
    module, function = ELSEWHERE.get(name, (name, "main"))
    code: int = getattr(import_module(f"depthlab.commands.{module}"), function)(arguments)
    return code


def _usage(program: str) -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join([f"usage: {program} COMMAND ...", "", *lines, "", f"{program} COMMAND --help says more."])


def command() -> None:
    """The command as the whole of a process."""
    end_with(main)


if __name__ == "__main__":
    command()
