"""Extending a finished run: a longer one that begins with its weights, optimiser, random state and step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from depthlab.config.check import check
from depthlab.config.hardware import probe, resolve
from depthlab.config.identity import Identity, flatten, identify
from depthlab.config.schema import TrainConfig, as_dict
from depthlab.errors import InputError
from depthlab.records.arrays import arrays_path, load_arrays, write_arrays
from depthlab.records.checkpoints import checkpoint_path, load_checkpoint, save_checkpoint
from depthlab.records.curve_file import FILE_NAME as CURVES
from depthlab.records.curve_file import curves_text
from depthlab.records.directory import claim
from depthlab.records.record import FILE_NAME, Record, read_record, write_record
from depthlab.records.weight_files import hash_weights
from depthlab.runs.build import build_schedule
from depthlab.runs.code import code_of, in_words
from depthlab.runs.evaluate import check_recorded
from depthlab.runs.fit import make_plan

STATE = ("network", "optimizer", "random", "log")  # what a checkpoint must hold for a run to go on from it


def prepare_extension(
    parent: Path, max_steps: int, command: str, data_dir: str | None = None, code: str = "same"
) -> TrainConfig:
    """Put the directory of the longer run beside its parent, as if it had been stopped where the parent ended.

    The longer run has the directory that its configuration would have anyway. Where that exists, nothing is changed:
    the run is finished, or goes on.

    Args:
        parent: the directory of a finished run.
        max_steps: of the longer run.
        command: what a person types to get the longer run, for its record.
        data_dir: where the data are, if not where they were.
        code: "any" accepts a parent that was made by other code.

    Returns:
        The configuration of the longer run, which is still to be run.

    Raises:
        InputError: the parent cannot be extended by so many steps; the message says why.
    """
    record = read_record(parent)
    config = replace(_longer(check_recorded(record), parent, max_steps), code=code)
    if data_dir is not None:
        config.paths.data_dir = data_dir
    if reason := why_not_extended(record, parent, config):
        raise InputError(f"{parent}: {reason}")
    identity = _identify(config)
    directory = parent.parent / identity.directory
    with claim(directory):
        if not (directory / FILE_NAME).exists():
            try:
                _take_over(record, parent, config, identity, directory, command)
            except InputError:
                directory.rmdir()  # made by the claim, and still empty
                raise
    return config


def why_not_extended(record: Record, parent: Path, config: TrainConfig) -> str | None:
    """Why a run cannot become the beginning of the longer one that `config` describes; None where it can."""
    return next(_obstacles(record, parent, config), None)


def find_shorter(config: TrainConfig, directory: Path) -> Path | None:
    """A finished run beside `directory` that is the beginning of `config`'s: the longest of those that fit."""
    pattern = f"{directory.name.rpartition('-')[0]}-*/{FILE_NAME}"
    found: list[tuple[int, Path]] = []
    for path in directory.parent.glob(pattern):
        try:
            record = read_record(path.parent)
            if record.status != "finished" or record.steps >= config.trainer.max_steps:
                continue
            longer = _longer(check(record.config), path.parent, config.trainer.max_steps)
            if _identify(longer).directory == directory.name and not why_not_extended(record, path.parent, longer):
                found.append((record.steps, path.parent))
        except InputError:  # a damaged record, or one of a missing extension
            continue
    return max(found)[1] if found else None


def _longer(config: TrainConfig, parent: Path, max_steps: int) -> TrainConfig:
    """The configuration of a run with another length, its runs in the folder where that run lies."""
    place = parent if len(parent.parts) > 2 else parent.resolve()
    config.name, config.paths.log_dir = place.parent.name, str(place.parent.parent)
    config.rerun, config.dry_run, config.code = False, False, "same"
    config.trainer = replace(resolve(config.trainer, probe()), max_steps=max_steps)
    return config


def _identify(config: TrainConfig) -> Identity:
    return identify(hash_weights(flatten(as_dict(config))), config.trainer.devices)


def _obstacles(record: Record, parent: Path, config: TrainConfig) -> Iterator[str]:
    """What keeps the longer run from being what it would be if it were trained from its start, one after another."""
    trainer, steps = config.trainer, record.steps
    if record.status != "finished":
        again = " The same command as before continues it." if record.status == "running" else ""
        yield f"only a finished run can be extended, and this one is {record.status}.{again}"
    if record.stopped_early:
        yield f"it was stopped early, at step {steps:,}: {record.stopped_early.get('reason')}."
    if config.code == "same" and (differences := code_of(config).differences(record.code)):
        yield f"it was made by other code (differs: {in_words(differences)}). code=any goes on with the present one."
    if trainer.max_steps <= steps:
        yield f"trainer.max_steps={trainer.max_steps}: the run has {steps:,} steps already. Give more."
    yield from _other_rates(record, config)
    if trainer.bn_statistics == "averaged":
        yield "trainer.bn_statistics=averaged: its moving averages were replaced at its end."
    plan = make_plan(config, record.data.get("num_train") or 1, 0)
    if plan.last_epoch_start < steps:
        least = steps + trainer.max_steps - plan.last_epoch_start
        yield (
            f"trainer.max_steps={trainer.max_steps}: the last epoch, which train/*_running is measured over, would "
            f"begin before step {steps:,}. Give {least} or more."
        )
    acting = [name for name, spec in config.callbacks.items() if spec.identity]
    if acting and steps % trainer.val_every_steps:
        yield f"callbacks={acting[0]}: it may have acted on the validation of step {steps:,}, which a longer run lacks."
    if not checkpoint_path(parent, steps).exists():
        yield (
            f"the checkpoint of its last step ({checkpoint_path(parent, steps).name}) was not kept. "
            "Its command with rerun=true makes it again."
        )


def _other_rates(record: Record, config: TrainConfig) -> Iterator[str]:
    """Where the learning rates of the two lengths differ before the shorter one ends."""
    shorter = replace(config, trainer=replace(config.trainer, max_steps=record.steps))
    before, longer = build_schedule(shorter), build_schedule(config)
    for step in range(record.steps):
        if before(step) != longer(step):
            yield (
                f"schedule={config.schedule.registered}: at {config.trainer.max_steps:,} steps the rate of step "
                f"{step:,} would have been {longer(step):.6g}, and was {before(step):.6g}. "
                "Train the longer run from its start."
            )
            return


def _take_over(
    record: Record, parent: Path, config: TrainConfig, identity: Identity, directory: Path, command: str
) -> None:
    """Fill `directory`, all of it at once, with what the longer run would have left at the parent's last step."""
    state = _state(parent, record.steps)
    temporary = directory.parent / f".{directory.name}.extending"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_checkpoint(temporary, record.steps, state)
    (temporary / CURVES).write_text(curves_text(parent), encoding="utf-8")
    if arrays_path(parent, "gradients").exists():
        write_arrays(temporary, "gradients", **load_arrays(parent, "gradients"))
    taken_over = {"run": parent.resolve().name, "steps": record.steps, "weights_sha256": record.weights_sha256}
    started = replace(
        record,
        status="running",
        name=config.name,
        command=command,
        config=as_dict(config),
        run=identity.directory,
        recipe=identity.recipe,
        metrics={},
        metrics_ema=None,
        weights_sha256=None,
        finished_at=None,
        extended_from=taken_over,
    )
    write_record(temporary, started)
    temporary.rename(directory)  # which is there, and empty


def _state(parent: Path, step: int) -> dict[str, Any]:
    """The parent's last state. Its last epoch is not that of the longer run."""
    path = checkpoint_path(parent, step)
    state = load_checkpoint(path)
    if missing := [name for name in STATE if name not in state]:
        raise InputError(f"{path} holds no {missing[0]!r}: it was not written by a run of this version.")
    log = state["log"]
    return {**state, "log": {**log, "last_epoch": [0.0] * len(log["last_epoch"])}}
