"""One training run, top to bottom: plan, build, fit, test once, record."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from depthlab.config.check import check_values
from depthlab.config.hardware import probe, resolve
from depthlab.config.schema import TrainConfig
from depthlab.errors import InputError
from depthlab.records.directory import check_place, claim, set_aside
from depthlab.records.record import FILE_NAME, Record, check_name, read_record
from depthlab.records.weight_files import identity_of
from depthlab.runs.code import (
    BEFORE_CODE,
    Code,
    code_of,
    differences_that_matter,
    has_work,
    in_words,
    refuse_other_code,
)
from depthlab.runs.execute import RunInProgress
from depthlab.runs.observer import Observer
from depthlab.runs.outcome import Outcome, finished_before, planned

FINGERPRINT = "DEPTHLAB_CODE"  # of the first process, for the others


def run(config: TrainConfig, command: str, expected: str | None = None, observer: Observer | None = None) -> Outcome:
    """Do what `config` says, unless it is done already; go on where an earlier start was cut off.

    Args:
        config: a checked configuration.
        command: what a person types to get this run, for the record.
        expected: the name of the run's directory, where that was known before.
        observer: is told about the run; see `Observer`.

    Raises:
        InputError: what was asked for cannot be done here; nothing was overwritten.
    """
    hardware = probe()
    config.trainer = resolve(config.trainer, hardware)
    check_values(config)  # the number of processes is known only now
    identity = identity_of(config)
    if expected not in (None, identity.directory):
        raise InputError(
            f"This run was {expected} when its sweep was launched and is {identity.directory} now: the file of "
            f"model.weights={config.model.weights}, or the code that names runs, was changed since. "
            "Bring that back, or start the sweep again as it is now."
        )
    directory = Path(config.paths.log_dir) / config.name / identity.directory
    check_place(directory)
    if config.dry_run:
        return planned(config, directory)
    code = code_of(config)
    _check_same_in_all_processes(code)
    if not is_first_process():
        follower = RunInProgress(config, command, identity, directory, hardware, None, code, observer, writes=False)
        follower.prepare()
        status = follower.execute().status
        return Outcome(status, "", directory)  # the first process speaks for all
    with claim(directory):
        existing = read_record(directory) if (directory / FILE_NAME).exists() else None
        repeats = existing is not None and _repeats(config, code, existing, directory)
        if existing is not None and existing.is_done and not repeats:
            return finished_before(config, existing, directory)
        try:
            before = None if repeats else existing
            mine = RunInProgress(config, command, identity, directory, hardware, before, code, observer, writes=True)
            try:
                mine.prepare()
            except Exception as error:
                if not (repeats or isinstance(error, InputError)):
                    mine.fail(error)
                raise
            if repeats:  # only now is it known that the new run can start
                print(f"{directory.name}: the run before is now {set_aside(directory)}")
                directory.mkdir()
            return mine.execute()
        except InputError:
            with suppress(OSError):
                directory.rmdir()  # made for this run, and still empty
            raise


def _repeats(config: TrainConfig, code: Code, existing: Record, directory: Path) -> bool:
    """Whether a run that is there is moved aside and made again, rather than accepted or continued.

    Raises:
        InputError: it is another run's directory, or of other code and neither was asked for.
    """
    check_name(existing, directory)
    differences = differences_that_matter(code, existing, directory)
    if config.rerun and (existing.is_done or differences):
        return True
    if differences and config.code == "same":
        refuse_other_code(directory, existing, differences)
    if differences and existing.is_done:
        print(f"{directory.name}: made by other code, accepted (code=any): {in_words(differences)}")
    if existing.code is None and has_work(existing, directory):
        print(f"{directory.name}: {BEFORE_CODE}")
    return False


def _check_same_in_all_processes(code: Code) -> None:
    """The first process of a data-parallel run tells the others, which start later, what it runs."""
    if is_first_process():
        os.environ[FINGERPRINT] = code.fingerprint
    elif os.environ.get(FINGERPRINT, code.fingerprint) != code.fingerprint:
        raise InputError("The code was changed while the processes of this run were started. Start it again.")


def is_first_process() -> bool:
    """False in the processes that Lightning starts beside this one for data-parallel training."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0
