"""The queue: jobs over devices, each job a fresh process, until all are done or a person stops them."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from depthlab.errors import InputError
from depthlab.records.directory import holder
from depthlab.records.record import FILE_NAME
from depthlab.runs import exits
from depthlab.runs.snapshot import FOLDER, python_path
from depthlab.sweeps.devices import Devices, Lease
from depthlab.sweeps.job import OPEN, RESULTS, Entry, State
from depthlab.sweeps.job_process import Process
from depthlab.sweeps.preflight import file_name, frozen_path
from depthlab.sweeps.run_status import classify_exit, last_lines, link_log, run_status
from depthlab.sweeps.settings import Settings
from depthlab.sweeps.sharing import Sharing

PAUSE_SECONDS = 0.02  # between two looks at the processes; a device is idle for at most this long
LOOK_SECONDS = 1.0  # between two looks at files: progress, logs, runs that another process holds
GRACE_SECONDS = 2.0  # from SIGTERM to SIGKILL, where a sweep ends at once
TAIL_LINES = 5  # of a failed job's log
SIGNALS = (signal.SIGINT, signal.SIGHUP, *exits.STOP_SIGNALS)

Command = Callable[[Path], Sequence[str]]


class View(Protocol):
    """Shows the progress of a queue."""

    def started(self, entry: Entry) -> None: ...
    def ended(self, entry: Entry) -> None: ...
    def say(self, text: str) -> None: ...
    def refresh(self, entries: Sequence[Entry]) -> None: ...


class Source(Protocol):
    """Where more jobs come from while the queue runs."""

    def more(self, num_open: int) -> Sequence[Entry]:
        """Jobs to be added, while `num_open` are waiting or running; none where there is nothing to do at present."""

    def ended(self, entry: Entry) -> None:
        """A job has ended and is not tried again."""

    def look(self, running: Sequence[Entry]) -> None:
        """Called about once a second. A job is stopped for good with `drop`."""


class Pool:
    """Runs the entries of a sweep over devices."""

    def __init__(
        self,
        entries: Sequence[Entry],
        devices: Mapping[str, Devices],
        settings: Settings,
        folder: Path,
        command: Command,
        view: View,
        sharing: Sharing,
        source: Source | None = None,
    ) -> None:
        """`folder` holds the frozen configurations; `command` makes the command line of a job from one of them."""
        self._entries = sorted(entries, key=_rank)
        self._devices = devices
        self._settings = settings
        self._folder = folder
        self._command = command
        self._view = view
        self._sharing = sharing
        self._source = source
        snapshot = folder / FOLDER
        self._code = {"PYTHONPATH": python_path(snapshot)} if snapshot.exists() else {}
        self._signals: list[tuple[float, int]] = []
        self._began_at = time.time()
        self._next_look_seconds = 0.0
        self.stopped_by: int | None = None  # the signal that a person or a scheduler sent
        self._closed = False  # nothing more is started
        self._held_elsewhere: set[str] = set()  # accelerators of which that has been said

    def run(self) -> None:
        """Run until no entry is open, or until stopped. No process outlives this call, however it ends."""
        with self._listening():
            try:
                self._refill()
                while self._is_unfinished():
                    self._heed_signals()
                    self._collect()
                    self._refill()
                    self._start()
                    self._look()
                    time.sleep(PAUSE_SECONDS)
            finally:
                self._end_processes()

    def _end_processes(self) -> None:
        """End what runs, by SIGTERM first: under MPS a process that is killed outright may take others along."""
        running = [entry.process for entry in self._running() if entry.process is not None]
        for process in running:
            process.stop()
        until = time.monotonic() + GRACE_SECONDS
        for process in running:
            process.wait(until - time.monotonic())
            process.kill()

    def _is_unfinished(self) -> bool:
        return any(
            entry.state is State.RUNNING or (entry.state in OPEN and not self._closed) for entry in self._entries
        )

    def _refill(self) -> None:
        if self._source is not None and not self._closed:
            self._entries += self._source.more(sum(entry.state in OPEN for entry in self._entries))
            self._entries.sort(key=_rank)

    def _running(self) -> list[Entry]:
        return [entry for entry in self._entries if entry.state is State.RUNNING]

    def _collect(self) -> None:
        """Take note of the jobs that have ended."""
        for entry in self._running():
            assert entry.process is not None and entry.lease is not None and entry.log is not None
            code = entry.process.poll()
            if code is None:
                continue
            entry.seconds += entry.running_seconds()
            self._devices[entry.job.accelerator].release(entry.lease)
            link_log(entry.log, entry.job.directory)
            entry.tail = last_lines(entry.log, TAIL_LINES)
            entry.state, entry.reason = classify_exit(
                code, entry.job, entry.tail, self.stopped_by is not None or entry.is_dropped
            )
            entry.process = entry.lease = None
            self._settle(entry, code)

    def _settle(self, entry: Entry, code: int) -> None:
        """Whether a job that has ended is tried again, and what that means for the others."""
        if entry.state is State.HELD:
            entry.not_before_seconds = time.monotonic() + LOOK_SECONDS
            entry.attempts -= 1
            self._view.say(f"{entry.job.label}: held by {holder(entry.job.directory)}, waiting for it")
            return
        if entry.state is State.FAILED and not self._closed and self._sharing.makes_room(entry):
            entry.state = State.WAITING
            entry.attempts -= 1
            return
        again = entry.state in (State.FAILED, State.INTERRUPTED) and code != exits.MISTAKE
        if again and not entry.is_dropped and entry.attempts <= self._settings.retries and not self._closed:
            self._view.say(f"{entry.job.label}: {entry.reason}; trying again")
            entry.state = State.WAITING
            self._entries.sort(key=_rank)
            return
        self._end(entry)

    def _end(self, entry: Entry) -> None:
        self._view.ended(entry)
        if self._source is not None:
            self._source.ended(entry)
        if entry.state is State.FAILED and self._settings.on_error == "stop" and not self._closed:
            self._view.say("on_error=stop: jobs that run are finished, none is started")
            self._closed = True

    def _start(self) -> None:
        """Give free devices to waiting jobs, in order; a job that needs more than are free does not starve."""
        refused: dict[str, int] = {}  # by accelerator: that many devices, and more, are not to be had now
        for entry in self._entries:
            accelerator, num_devices = entry.job.accelerator, entry.job.num_devices
            if self._closed or not _is_due(entry) or num_devices >= refused.get(accelerator, num_devices + 1):
                continue
            devices = self._devices[accelerator]
            lease = devices.lease(num_devices)
            if lease is None:
                self._say_once_who_holds(accelerator)
                # Smaller jobs behind it would take every device as it becomes free: keep them for this one, unless
                # a job that runs leaves enough at once.
                refused[accelerator] = num_devices if devices.will_free(num_devices) else 1
            elif not (self._is_ours(entry) and self._start_process(entry, lease)):
                devices.release(lease)

    def _say_once_who_holds(self, accelerator: str) -> None:
        if self._devices[accelerator].are_idle and accelerator not in self._held_elsewhere:
            self._held_elsewhere.add(accelerator)
            self._view.say(f"another launcher holds devices of the kind {accelerator}: waiting for them")

    def _is_ours(self, entry: Entry) -> bool:
        """Whether `entry` is to be started: not while another process has its run, nor when that one has done it."""
        job, was = entry.job, entry.state
        try:
            entry.state = run_status(job, repeat=job.config.rerun and not self._is_new(job.directory / FILE_NAME))
        except InputError as error:
            self._fail(entry, str(error))
        if entry.state is State.HELD:
            entry.not_before_seconds = time.monotonic() + LOOK_SECONDS
            if was is not State.HELD:
                self._view.say(f"{job.label}: held by {holder(job.directory)}, waiting for it")
        elif entry.state in RESULTS:
            self._view.say(f"{job.label}: {entry.state} by another process")
            if self._source is not None:
                self._source.ended(entry)
        return entry.state is State.WAITING

    def _is_new(self, path: Path) -> bool:
        return path.exists() and path.stat().st_mtime > self._began_at

    def _start_process(self, entry: Entry, lease: Lease) -> bool:
        entry.log = self._folder / "jobs" / f"{file_name(entry.job)}.log"
        entry.attempts += 1
        entry.started_at, entry.started_seconds = time.time(), time.monotonic()
        command = self._command(frozen_path(self._folder, entry.job))
        environment = {**lease.environment(), **self._sharing.environment(lease), **self._code}
        try:
            entry.process = Process(command, environment, entry.log)
        except OSError as error:
            self._fail(entry, f"could not be started: {error}")
            return False
        entry.lease, entry.state = lease, State.RUNNING
        self._view.started(entry)
        return True

    def _fail(self, entry: Entry, reason: str) -> None:
        entry.state, entry.reason = State.FAILED, reason
        self._end(entry)

    def _look(self) -> None:
        """What is done about once a second: read files and show what they say."""
        if time.monotonic() < self._next_look_seconds:
            return
        self._next_look_seconds = time.monotonic() + LOOK_SECONDS
        for entry in self._running():
            assert entry.log is not None
            link_log(entry.log, entry.job.directory)
        self._sharing.observe(self._entries)
        if self._source is not None:
            self._source.look(self._running())
        self._view.refresh(self._entries)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        def note(number: int, _: FrameType | None) -> None:
            self._signals.append((time.monotonic(), number))

        before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            if number != signal.SIGHUP or before[number] is not signal.SIG_IGN:  # which nohup has it be
                signal.signal(number, note)
        try:
            yield
        finally:
            for number in SIGNALS:
                signal.signal(number, before[number])

    def _heed_signals(self) -> None:
        """The first signal stops the jobs at a checkpoint, a second one kills them."""
        if not self._signals:
            return
        if self.stopped_by is None:
            self.stopped_by, self._closed = self._signals[0][1], True
            for entry in self._running():
                assert entry.process is not None
                entry.process.stop()
            self._view.say("stopping: running jobs write a checkpoint, waiting ones do not start; again to kill them")
        # `timeout` and some schedulers signal the process and then its group: two within an instant are one.
        elif any(late - first > 0.3 for (first, _), (late, _) in itertools.combinations(self._signals, 2)):
            self._end_processes()


def _rank(entry: Entry) -> tuple[int, int, int]:
    # Jobs over several devices go first: what they leave free is filled with the others, not the reverse.
    return -entry.job.num_devices, entry.attempts, entry.job.idx


def _is_due(entry: Entry) -> bool:
    return entry.state in (State.WAITING, State.HELD) and time.monotonic() >= entry.not_before_seconds
