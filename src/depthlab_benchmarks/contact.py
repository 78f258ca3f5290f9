"""A part of first_contact at work: its configurations, its benches, and what it has found so far."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from depthlab.config.check import check
from depthlab.config.commandline import composed
from depthlab.config.folder import config_dir
from depthlab.config.hardware import probe, resolve
from depthlab.config.schema import TrainConfig
from depthlab.training.capture import Capture, cuda_graph
from depthlab.training.compiling import compile_training
from depthlab_benchmarks.captured import Bench, configured, stand_in

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
