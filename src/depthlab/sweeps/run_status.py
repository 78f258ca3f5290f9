"""Where a job stands, read from its run directory: what the launcher knows of a run comes from files alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from depthlab.errors import InputError
from depthlab.records.directory import is_held
from depthlab.records.record import FILE_NAME, Record, check_name, read_record
from depthlab.runs import exits
from depthlab.sweeps.job import Job, State

TAIL_BYTES = 16384
ERROR = "error: "  # before what a command says last


def run_status(job: Job, repeat: bool) -> State:
    """Whether a run is done, is worked on by another process, or waits; `repeat` is for one to be done again.

    Raises:
        InputError: its record cannot be read, or is another run's.
    """
    if is_held(job.directory):
        return State.HELD
    if not (job.directory / FILE_NAME).exists():
        return State.WAITING
    record = read_record(job.directory)
    check_name(record, job.directory)
    done = {"finished": State.FINISHED, "diverged": State.DIVERGED}
    return State.WAITING if repeat else done.get(record.status, State.WAITING)


def steps_done(job: Job) -> int:
    """The step from which a run continues, according to its record."""
    record = read_if_there(job.directory)
    return record.steps if record else 0


def classify_exit(code: int, job: Job, tail: Sequence[str], stopping: bool) -> tuple[State, str]:
    """What became of a job whose process ended with `code` and whose log ends with `tail`, and why."""
    if code == exits.HELD:
        return State.HELD, ""
    record = read_if_there(job.directory)
    if code == exits.CONTINUE_ME:
        steps = record.steps if record else 0
        reason = f"stopped after the checkpoint of step {steps:,}" if steps else "stopped before its first checkpoint"
        return State.INTERRUPTED, reason
    if stopping and code < 0:
        return State.INTERRUPTED, "killed" if code == -signal.SIGKILL else "stopped while it set up"
    status = record.status if record else None
    if code == exits.DONE and record and record.is_done:
        return State(record.status), ""
    if code == exits.FAILED and status == "failed" and record and record.failure:
        return State.FAILED, str(record.failure.get("reason"))
    said = next((line.removeprefix(ERROR) for line in reversed(tail) if line.startswith(ERROR)), None)
    return State.FAILED, said if said and code > 0 else _explain(code, status)


def last_lines(log: Path | None, count: int) -> list[str]:
    """The last lines of a log that are not empty; of a line that was drawn over itself, the last drawing."""
    if log is None or not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read(TAIL_BYTES).decode("utf-8", errors="replace")
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    return [line for line in lines if line.strip()][-count:]


def link_log(log: Path, directory: Path) -> None:
    """Put the log into the run's directory too, as a second name of the same file, once the job has made that."""
    link = directory / "job.log"
    try:
        if not directory.exists() or (link.exists() and link.samefile(log)):
            return
        link.unlink(missing_ok=True)
        os.link(log, link)
    except OSError:  # some file systems have no hard links; the log is in the sweep's folder in any case
        return


def results(jobs: Sequence[Job]) -> list[Record]:
    """The records of those jobs that are done."""
    records = [read_if_there(job.directory) for job in jobs]
    return [record for record in records if record and record.is_done]


def read_if_there(directory: Path) -> Record | None:
    """The record of a run; None if there is no readable one."""
    try:
        return read_record(directory)
    except InputError:
        return None


def _explain(code: int, status: str | None) -> str:
    if code < 0:
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"killed by signal {-code}, {signal.strsignal(-code)}{hint}"
    if code == exits.DONE:
        return f"ended well, but its record says {status or 'nothing'}"
    if code == exits.MISTAKE:
        return "refused its input"
    return f"exit code {code}"
