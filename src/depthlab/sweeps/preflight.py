"""Before the first job: every configuration checked, clashes found, all of it frozen on disk."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from depthlab.config.check import check
from depthlab.config.hardware import Hardware, resolve
from depthlab.config.identity import flatten, name_repetition
from depthlab.config.schema import TrainConfig, as_dict
from depthlab.errors import InputError
from depthlab.records.directory import check_place
from depthlab.records.weight_files import find_weights, identity_of
from depthlab.runs.code import BEFORE_CODE, Code, differences_that_matter, has_work, in_words, read_code, roots_of
from depthlab.runs.images import UNKNOWN, ImageChecks
from depthlab.runs.snapshot import FOLDER, take_snapshot
from depthlab.sweeps.job import Entry, Job, labels
from depthlab.sweeps.run_status import read_if_there, run_status, steps_done

SHOWN = 5  # mistakes; a wrong word in the command line is usually wrong in every job


@dataclass(frozen=True)
class Request:
    """A job as Hydra composed it. `prefix` and `overrides` are the words that repeat it alone."""

    overrides: tuple[str, ...]
    composed: DictConfig
    prefix: tuple[str, ...] = ("python", "train.py")


def check_all(requests: Sequence[Request], hardware: Hardware) -> tuple[list[Job], list[str]]:
    """The jobs, each run once, and a line for each that was asked for twice.

    Raises:
        InputError: one or more of them cannot run, or two would be the same run in different ways.
    """
    mistakes: dict[str, list[int]] = {}
    configs: list[TrainConfig] = []
    for idx, request in enumerate(requests):
        try:
            configs.append(_check(request.composed, hardware))
        except InputError as error:
            mistakes.setdefault(str(error), []).append(idx)
    if mistakes:
        raise InputError(_describe_mistakes(mistakes, requests))
    return _without_repetitions(_as_jobs(requests, configs))


def examine(jobs: Sequence[Job]) -> list[Entry]:
    """The jobs with what is on disk of each: finished, held by another process, or still to be done.

    Raises:
        InputError: a record that is there cannot be read.
    """
    return [
        Entry(job, run_status(job, repeat=job.config.rerun), steps_before=0 if job.config.rerun else steps_done(job))
        for job in jobs
    ]


class Made(Protocol):
    """A run that may be there already: a job, or what a search has tried."""

    @property
    def label(self) -> str: ...
    @property
    def config(self) -> TrainConfig: ...
    @property
    def directory(self) -> Path: ...


def check_code(jobs: Sequence[Made]) -> list[str]:
    """Lines about existing runs whose code differs or is unknown.

    Raises:
        InputError: some are of other code, and that was not accepted.
    """
    other: dict[str, list[Made]] = {}
    accepted: dict[str, list[Made]] = {}
    unknown = 0
    codes: dict[tuple[str, ...], Code] = {}
    for job in jobs:
        record = read_if_there(job.directory)
        if record is None or job.config.rerun:
            continue
        roots = roots_of(job.config)
        codes[roots] = codes.get(roots) or read_code(roots)
        if differences := differences_that_matter(codes[roots], record, job.directory):
            found = other if job.config.code == "same" else accepted
            found.setdefault(in_words(differences), []).append(job)
        unknown += record.code is None and has_work(record, job.directory)
    if other:
        raise InputError(_describe_other_code(other, len(jobs)))
    lines = [f"code=any: {_named(same)} of other code, accepted; differs: {files}" for files, same in accepted.items()]
    return [*lines, *([f"{unknown} of {len(jobs)} jobs: {BEFORE_CODE}"] if unknown else [])]


def check_images(jobs: Sequence[Made]) -> list[str]:
    """A line about finished runs whose images cannot be read now.

    Raises:
        InputError: some have seen other images than there are now.
    """
    images = ImageChecks()
    other: dict[str, list[Made]] = {}
    unknown = []
    for job in jobs:
        record = read_if_there(job.directory)
        if record is None or job.config.rerun:
            continue
        if difference := images.difference(job.config, record):
            other.setdefault(difference, []).append(job)
        elif images.is_unknown(job.config):
            unknown.append(job)
    if other:
        lines = [f"{sum(map(len, other.values()))} of {len(jobs)} runs have seen other images; nothing was started."]
        lines += [f"  {_named(same)}; differs: {difference}" for difference, same in list(other.items())[:SHOWN]]
        raise InputError("\n".join([*lines, "Bring those back, or give rerun=true, which repeats them."]))
    return [f"{_named(unknown)}: {UNKNOWN}"] if unknown else []


def _describe_other_code(other: Mapping[str, Sequence[Made]], num_jobs: int) -> str:
    lines = [f"{sum(map(len, other.values()))} of {num_jobs} runs were made by other code; nothing was started."]
    lines += [f"  {_named(same)}; differs: {files}" for files, same in list(other.items())[:SHOWN]]
    if len(other) > SHOWN:
        lines.append(f"  and others, {len(other) - SHOWN} other differences")
    return "\n".join([*lines, "code=any accepts what is finished and continues the rest; rerun=true repeats them."])


def _named(jobs: Sequence[Made]) -> str:
    more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    return f"{jobs[0].label}{more}"


def freeze(entries: Sequence[Entry], sweep_dir: Path, num_threads: Mapping[str, int]) -> tuple[Path, str | None]:
    """Write the configuration of every job, and the code, into a new folder of `sweep_dir`; edits change nothing then.

    Args:
        entries: the jobs that are still to be done.
        sweep_dir: where the sweeps of one name are kept.
        num_threads: for each accelerator the CPU threads of a process, where its configuration does not say.

    Returns:
        The new folder, and the digest of the snapshot of the code in it.
    """
    folder = sweep_dir / datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    try:
        (folder / "configs").mkdir(parents=True)
        (folder / "jobs").mkdir()
        snapshot = take_snapshot(folder / FOLDER)
        for entry in entries:
            freeze_job(folder, entry.job, num_threads[entry.job.accelerator], snapshot)
    except OSError as error:
        reason = f"{folder} cannot be written ({error.strerror})."
        raise InputError(f"{reason} Choose another place with paths.log_dir=...") from None
    return folder, snapshot


def freeze_job(folder: Path, job: Job, num_threads: int, snapshot: str | None) -> None:
    """Write the configuration of one job into the folder that `freeze` made, with the digest of its snapshot.

    Raises:
        OSError: it cannot be written.
    """
    config = job.config
    trainer = replace(config.trainer, num_threads=config.trainer.num_threads or num_threads)
    tree = as_dict(replace(config, trainer=trainer))
    frozen = {"command": job.command, "directory": job.directory.name, "config": tree, "snapshot": snapshot}
    frozen_path(folder, job).write_text(json.dumps(frozen, indent=2), encoding="utf-8")


def frozen_path(folder: Path, job: Job) -> Path:
    """Where the frozen configuration of `job` lies in a sweep's folder."""
    return folder / "configs" / f"{file_name(job)}.json"


def file_name(job: Job) -> str:
    """What the files of one job in a sweep's folder are called; the number keeps them in order."""
    return f"{job.idx:03d}-{job.directory.name}"


def _check(composed: DictConfig, hardware: Hardware) -> TrainConfig:
    try:
        own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        tree: Any = OmegaConf.to_container(own, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    config = check(tree)
    config.trainer = resolve(config.trainer, hardware)
    if config.model.weights is not None:
        find_weights(config.model.weights)
    return config


def _as_jobs(requests: Sequence[Request], configs: Sequence[TrainConfig]) -> list[Job]:
    names = [f"{config.model.name} {name_repetition(config.seed, config.data.fold)}" for config in configs]
    named = labels([request.overrides for request in requests], names)
    jobs = []
    for idx, (request, config, label) in enumerate(zip(requests, configs, named, strict=True)):
        identity = identity_of(config)
        directory = Path(config.paths.log_dir) / config.name / identity.directory
        check_place(directory)
        command = shlex.join([*request.prefix, *request.overrides])
        jobs.append(Job(idx, label, command, config, identity, directory))
    return jobs


def _without_repetitions(jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    kept: dict[Path, Job] = {}
    lines = []
    for job in jobs:
        first = kept.setdefault(job.directory, job)
        if first is job:
            continue
        ours, theirs = flatten(as_dict(job.config)), flatten(as_dict(first.config))
        different = [key for key in ours if ours[key] != theirs[key]]
        if different:
            raise InputError(
                f"Jobs {first.idx} and {job.idx} would share the directory {job.directory}: they differ in "
                f"{', '.join(different)} only, which does not change what a run is. Sweep over something else, "
                "or give each a name=... of its own. Nothing was started."
            )
        lines.append(f"job {job.idx} ({job.label}) is the same run as job {first.idx}: it runs once")
    return list(kept.values()), lines


def _describe_mistakes(mistakes: Mapping[str, Sequence[int]], requests: Sequence[Request]) -> str:
    lines = [f"{sum(map(len, mistakes.values()))} of {len(requests)} jobs cannot run; nothing was started."]
    for message, idxs in list(mistakes.items())[:SHOWN]:
        more = f" and {len(idxs) - 1} more" if len(idxs) > 1 else ""
        lines.append(f"  job {idxs[0]} ({' '.join(requests[idxs[0]].overrides)}){more}: {message}")
    if len(mistakes) > SHOWN:
        lines.append(f"  and {len(mistakes) - SHOWN} other mistakes")
    return "\n".join(lines)
