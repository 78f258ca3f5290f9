"""One sweep, or one search, top to bottom: check the jobs, say what will happen, freeze, run the queue, sum up."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override

from depthlab.config.console import TextConsole
from depthlab.config.hardware import Hardware, probe_in_subprocess
from depthlab.config.output import outlive_output
from depthlab.config.schema import SearchConfig
from depthlab.records.directory import claim
from depthlab.runs import exits
from depthlab.runs.snapshot import FOLDER, remove_snapshot
from depthlab.sweeps.devices import Devices, find_devices, gpu_names
from depthlab.sweeps.job import RESULTS, Entry
from depthlab.sweeps.live_view import Lines, LiveTable, readers_may_leave, remaining
from depthlab.sweeps.preflight import Request, check_all, check_code, check_images, examine, freeze
from depthlab.sweeps.queue import Command, Pool
from depthlab.sweeps.runtime_estimate import Estimates, read_estimates
from depthlab.sweeps.search import JobMaker, Search, tried
from depthlab.sweeps.search_space import ask, ends, split
from depthlab.sweeps.search_study import folder_name, open_study
from depthlab.sweeps.settings import Settings
from depthlab.sweeps.sharing import Sharing
from depthlab.sweeps.sweep_tables import plan_lines, print_outcome, print_search

MANY = 50  # jobs, which take ten seconds to check


def job_command(frozen: Path) -> list[str]:
    """The command line of one job."""
    return [
        sys.executable,
        "-P",
        "-m",
        "depthlab.runs.process",
        str(frozen),
    ]  # -P: nothing is imported from where one stands


def launch(
    requests: Sequence[Request],
    sweep_dir: Path,
    settings: Settings,
    command: Command = job_command,
    probe: Callable[[], Hardware] = probe_in_subprocess,
) -> int:
    """Run a sweep; the exit code.

    Args:
        requests: the jobs, as composed.
        sweep_dir: where frozen configurations and logs go, in a folder of this launch.
        settings: jobs at a time, what to do about failures.
        command: the command line of a job, from its frozen configuration.
        probe: what this machine computes on.

    Raises:
        InputError: something in the jobs is wrong; none was started.
    """
    exits.stop_when_asked(also=(signal.SIGHUP,))
    outlive_output()
    console = TextConsole()
    if len(requests) >= MANY:
        with readers_may_leave(console):
            console.print(f"checking {len(requests)} jobs", highlight=False)
    hardware = probe()
    jobs, repeated = check_all(requests, hardware)
    entries = examine(jobs)
    repeated += [*check_code(jobs), *check_images(jobs)]
    waiting = [entry for entry in entries if entry.state not in RESULTS]
    devices = find_devices(hardware, _wanted(waiting), settings.jobs_per_device)
    known = read_estimates(Path(jobs[0].config.paths.log_dir))
    num_places = sum(kind.num_places for kind in devices.values())
    lines = [*repeated, *plan_lines(entries, known, num_places)]
    _say(console, *lines)
    if any(job.config.dry_run for job in jobs):
        return exits.DONE
    folder, stopped_by = None, None
    if waiting:
        folder, _ = freeze(waiting, sweep_dir, {kind: each.num_threads for kind, each in devices.items()})
        if not (folder / FOLDER).exists():
            _say(console, f"{folder} holds {os.pathsep!r}, so its jobs import the code where it is: do not edit it.")
        stopped_by = _run(console, entries, devices, settings, folder, command, known, _uuids(hardware))
    with readers_may_leave(console):
        print_outcome(console, entries, folder)
    if folder is not None and all(entry.state in RESULTS for entry in entries):
        remove_snapshot(folder / FOLDER)
    return _exit_code(entries, stopped_by)


def launch_search(
    parts: Mapping[str, Override],
    compose: Callable[[Sequence[str]], Request],
    keys: SearchConfig,
    sweep_dir: Path,
    settings: Settings,
    command: Command = job_command,
    probe: Callable[[], Hardware] = probe_in_subprocess,
) -> int:
    """Run a search; the exit code.

    Args:
        parts: what was typed and what an experiment's file sweeps over, by key.
        compose: makes a job of overrides.
        keys: the section `search`.
        sweep_dir: where the folder of the search goes.
        settings, command, probe: as of `launch`.

    Raises:
        InputError: nothing can be searched like this, or ends of the space cannot be run; nothing was started.
    """
    exits.stop_when_asked(also=(signal.SIGHUP,))
    outlive_output()
    console, hardware = TextConsole(), probe()
    space, fixed, notes = split(parts)
    first, *_ = check_all([compose([*fixed, *overrides]) for overrides in ends(space)], hardware)[0]
    question = ask(first.config, space, keys)
    devices = find_devices(hardware, {first.accelerator: first.num_devices * keys.trials}, settings.jobs_per_device)
    num_places = max(1, sum(kind.num_places for kind in devices.values()) // first.num_devices)
    folder = sweep_dir / folder_name(question)
    _say(console, *notes, *question.lines(), f"{num_places} runs at a time -> {folder}")
    if first.config.dry_run:
        return exits.DONE
    with claim(folder):
        study = open_study(folder, question)
        _say(console, *check_code(tried(study, sweep_dir.parent, first.config.code)))
        configs, snapshot = freeze([], folder, {})
        jobs = JobMaker(compose, fixed, hardware, configs, devices[first.accelerator].num_threads, snapshot)
        known = read_estimates(Path(first.config.paths.log_dir))
        view = _make_view(console, known, num_places, keys.trials * keys.seeds)
        search = Search(study, question, jobs, num_places, folder, view.say)
        sharing = Sharing(settings, devices.get("gpu"), _uuids(hardware), view.say)
        pool = Pool([], devices, settings, jobs.configs, command, view, sharing, search)
        try:
            pool.run()
        finally:
            sharing.close()
            if isinstance(view, LiveTable):
                view.close()
        with readers_may_leave(console):
            print_search(console, search.summary(), sweep_dir.parent)
    if search.is_done:
        remove_snapshot(configs / FOLDER)
    if pool.stopped_by is not None:
        return exits.INTERRUPTED if pool.stopped_by == signal.SIGINT else exits.CONTINUE_ME
    return exits.DONE if search.is_done else exits.FAILED


def _say(console: TextConsole, *lines: str) -> None:
    with readers_may_leave(console):
        for line in lines:
            console.print(line, soft_wrap=True, markup=False, highlight=False)


def _run(
    console: TextConsole,
    entries: Sequence[Entry],
    devices: dict[str, Devices],
    settings: Settings,
    folder: Path,
    command: Command,
    known: Estimates,
    uuids: Mapping[str, str],
) -> int | None:
    """Run what waits; the signal that stopped it, if one did."""
    num_places = sum(kind.num_places for kind in devices.values())
    view = _make_view(console, known, num_places, 1 + max(entry.job.idx for entry in entries))
    sharing = Sharing(settings, devices.get("gpu"), uuids, view.say)
    try:
        pool = Pool(entries, devices, settings, folder, command, view, sharing)
        pool.run()
        return pool.stopped_by
    finally:
        sharing.close()
        if isinstance(view, LiveTable):
            view.close()


def _uuids(hardware: Hardware) -> dict[str, str]:
    """What each GPU is called everywhere, by its name here."""
    return dict(zip(gpu_names(len(hardware.gpus), os.environ), hardware.gpu_uuids, strict=False))


def _make_view(console: TextConsole, known: Estimates, num_places: int, num_jobs: int) -> Lines:
    """A table that is drawn anew where the console is a terminal, lines elsewhere."""
    return (LiveTable if _can_draw(console) else Lines)(console, remaining(known, num_places), num_jobs)


def _can_draw(console: TextConsole) -> bool:
    # rich takes a file for a terminal where FORCE_COLOR is set
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal


def _wanted(entries: Sequence[Entry]) -> dict[str, int]:
    """How many processes there are to run, by accelerator."""
    wanted: dict[str, int] = {}
    for entry in entries:
        wanted[entry.job.accelerator] = wanted.get(entry.job.accelerator, 0) + entry.job.num_devices
    return wanted


def _exit_code(entries: Sequence[Entry], stopped_by: int | None) -> int:
    if all(entry.state in RESULTS for entry in entries):
        return exits.DONE
    if stopped_by is None:
        return exits.FAILED
    return exits.INTERRUPTED if stopped_by == signal.SIGINT else exits.CONTINUE_ME
