"""How a run ended, in a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from depthlab.config.identity import name_repetition
from depthlab.config.schema import TrainConfig
from depthlab.errors import InputError
from depthlab.records.metrics import describe as describe_task
from depthlab.records.record import FILE_NAME, Record, read_record
from depthlab.runs.images import UNKNOWN, ImageChecks
from depthlab.training.callbacks.progress import clock


@dataclass(frozen=True)
class Outcome:
    """How a run ended: "finished", "diverged", "interrupted" or "planned"; a line that says so; its directory."""

    status: str
    line: str
    directory: Path


def planned(config: TrainConfig, directory: Path) -> Outcome:
    """What a run would do, and where."""
    status = read_record(directory).status if (directory / FILE_NAME).exists() else "not started"
    trainer, repetition = config.trainer, name_repetition(config.seed, config.data.fold)
    line = (
        f"{config.model.name} {repetition}: {trainer.max_steps:,} steps on {config.data.name}, "
        f"{trainer.devices} x {trainer.accelerator}, {trainer.precision} -> {directory} ({status})"
    )
    return Outcome("planned", line, directory)


def finished_before(config: TrainConfig, record: Record, directory: Path) -> Outcome:
    """That of a run which has finished or diverged before, if it has seen the images that there are now.

    Raises:
        InputError: it has seen others.
    """
    images = ImageChecks()
    if difference := images.difference(config, record):
        raise InputError(
            f"{directory}: this run {record.status} with other images than there are now.\n  differs: {difference}\n"
            "Bring those back, or give rerun=true, which moves it into .aside and repeats it."
        )
    if images.is_unknown(config):
        print(f"{directory.name}: {UNKNOWN}")
    return Outcome(record.status, f"{describe(record, directory)} (already finished)", directory)


def describe(record: Record, directory: Path) -> str:
    """A record's run, how far it came and where it lies."""
    repetition = name_repetition(record.seed, record.config.get("data", {}).get("fold"))
    title, steps = f"{record.model.get('name', '-')} {repetition}", f"{record.steps:,} steps"
    if record.status == "running":
        return f"{title}: stopped after {steps}; the same command continues it -> {directory}"
    after = f"after {steps}, {clock(record.wall_seconds or 0)} -> {directory}"
    if record.status == "diverged":
        return f"{title}: diverged {after}"
    metric = describe_task(record).main
    return f"{title}: test {metric.title} {metric.show(record.metrics.get(metric.key('test')))} {after}"
