"""What a person sees of a sweep: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import datetime
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from depthlab.records.progress_file import TRAIN_ERROR, Progress, read_progress
from depthlab.runs import exits
from depthlab.shown_text import one_line
from depthlab.sweeps.job import RESULTS, Entry, State
from depthlab.sweeps.run_status import last_lines
from depthlab.sweeps.runtime_estimate import Estimates, left, sweep_seconds

LINE_EVERY_SECONDS = 30.0
ORDER = (State.RUNNING, State.FAILED, State.INTERRUPTED, State.HELD, State.WAITING)  # what the table shows first
STYLES = {State.FAILED: "red", State.RUNNING: "bold", State.WAITING: "dim", State.HELD: "yellow"}

Remaining = Callable[[Sequence[Entry]], float | None]


def clock(seconds: float | None) -> str:
    """A duration as h:mm:ss, "-" where it is not known."""
    return "-" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def remaining(known: Estimates, num_places: int) -> Remaining:
    """A function from the entries of a sweep to the seconds it still takes."""

    def seconds(entries: Sequence[Entry]) -> float | None:
        typical = _typical_seconds(entries)
        lengths = [left(entry, progress_of(entry), known, typical) for entry in entries]
        if None in lengths:
            return None
        devices = [entry.job.num_devices for entry in entries]
        return sweep_seconds([length or 0.0 for length in lengths], devices, num_places)

    return seconds


def progress_of(entry: Entry) -> Progress | None:
    """What a running job last said of itself."""
    return read_progress(entry.job.directory, entry.started_at) if entry.state is State.RUNNING else None


class Lines:
    """A line when a job starts and ends, and one about everything now and then."""

    def __init__(self, console: Console, remaining: Remaining, num_jobs: int) -> None:
        """`num_jobs` counts all that were asked for, those that were finished before and repetitions too."""
        self._console = console
        self._remaining = remaining
        self._num_jobs = num_jobs
        self._last_seconds = time.monotonic()

    def say(self, text: str) -> None:
        """One line, never wrapped: others read it with grep."""
        with readers_may_leave(self._console):
            self._console.print(one_line(text), soft_wrap=True, markup=False, highlight=False)

    def started(self, entry: Entry) -> None:
        """A job has been given its devices."""
        again = f", attempt {entry.attempts}" if entry.attempts > 1 else ""
        self.say(f"[{entry.job.idx + 1}/{self._num_jobs}] start {entry.job.label} on {entry.lease}{again}")

    def ended(self, entry: Entry) -> None:
        """A job has ended: its own last line, or why it failed."""
        place = f"[{entry.job.idx + 1}/{self._num_jobs}]"
        if entry.state in RESULTS and entry.tail:
            self.say(f"{place} {entry.tail[-1]}")
        else:
            self.say(f"{place} {entry.state}: {entry.job.label}: {entry.reason}")
        if entry.state is State.FAILED:
            for line in entry.tail:
                self.say(f"      {line}")

    def refresh(self, entries: Sequence[Entry]) -> None:
        """A line about everything, twice a minute."""
        if time.monotonic() - self._last_seconds < LINE_EVERY_SECONDS:
            return
        self._last_seconds = time.monotonic()
        running = [entry for entry in entries if entry.state is State.RUNNING]
        parts = [f"{entry.job.label} {_progress_text(progress_of(entry))}" for entry in running]
        self.say(f"{summary(entries, self._remaining(entries))}: {'; '.join(parts)}")


@contextmanager
def readers_may_leave(console: Console) -> Iterator[None]:
    """A closed terminal or pipe is no reason to lose the jobs' work: they go on, unseen, or to their checkpoints."""
    try:
        yield
    except OSError:
        console.quiet = True
    except SystemExit as error:  # rich's way to say that a pipe is closed
        if error.code == exits.CONTINUE_ME:
            raise  # a signal has come
        console.quiet = True


class LiveTable(Lines):
    """The same lines, and below them a table that is drawn anew every second."""

    def __init__(self, console: Console, remaining: Remaining, num_jobs: int) -> None:
        """Takes over the lower part of the terminal until `close`."""
        super().__init__(console, remaining, num_jobs)
        # Drawn by the launcher's own loop: with a thread that draws, starting processes would no longer be safe.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def started(self, entry: Entry) -> None:
        """Nothing: the table shows it."""

    def refresh(self, entries: Sequence[Entry]) -> None:
        """Draw the table."""
        rows = max(3, self._console.height - 8)
        below = Text(summary(entries, self._remaining(entries)))
        with readers_may_leave(self._console):
            self._live.update(Group(jobs_table(entries, rows), below), refresh=True)

    def close(self) -> None:
        """Give the terminal back; the lines stay."""
        self._live.stop()


def jobs_table(entries: Sequence[Entry], rows: int) -> Table:
    """The jobs that are not done, those that run first, in at most `rows` rows."""
    title = next((progress.title for entry in entries if (progress := progress_of(entry))), TRAIN_ERROR)
    table = Table(
        "run", "state", "device", "step", Column(Text(one_line(title))), "time left", box=None, pad_edge=False
    )
    shown = sorted((entry for entry in entries if entry.state in ORDER), key=lambda entry: ORDER.index(entry.state))
    for entry in shown[:rows]:
        table.add_row(*_cells(entry), style=STYLES.get(entry.state))
    if len(shown) > rows:
        table.add_row(f"and {len(shown) - rows} more", style="dim")
    return table


def summary(entries: Sequence[Entry], seconds_left: float | None) -> str:
    """How many jobs are in which state, and the time left for all of them."""
    counts = Counter(entry.state for entry in entries)
    states = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    return f"sweep: {states}; time left {clock(seconds_left)}"


def _cells(entry: Entry) -> list[str | Text]:
    if entry.state is State.RUNNING:
        progress = progress_of(entry)
        said = last_lines(entry.log, 1) if progress is None else []
        step = f"{progress.step:,} / {progress.max_steps:,}" if progress else Text(one_line(" ".join(said), 40))
        value = Text(one_line(progress.show() if progress else "-"))
        time_left = clock(progress.seconds_left if progress else None)
        return [Text(entry.job.label), entry.state, str(entry.lease), step, value, time_left]
    why = Text(one_line(" | ".join([entry.reason, *entry.tail[-1:]])) if entry.reason else "")
    return [Text(entry.job.label), entry.state, why]


def _progress_text(progress: Progress | None) -> str:
    if progress is None:
        return "setting up"
    value = "" if progress.value is None else f", {progress.title} {progress.show()}"
    return f"step {progress.step:,}/{progress.max_steps:,}{value}, {clock(progress.seconds_left)} left"


def _typical_seconds(entries: Sequence[Entry]) -> float | None:
    """The mean length of the jobs of this sweep, of those that say: a guess for kinds never seen before."""
    lengths = [entry.seconds for entry in entries if entry.state in RESULTS and entry.seconds]
    for entry in entries:
        progress = progress_of(entry)
        if progress is not None and progress.seconds_left is not None:
            lengths.append(entry.running_seconds() + progress.seconds_left)
    return statistics.fmean(lengths) if lengths else None
