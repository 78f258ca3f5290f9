"""Stopping a sweep: gently, at once, and by killing the launcher. Nothing is ever left running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from depthlab.records.record import read_record
from depthlab.runs.process import FIRST_PROCESS

from .stub_sweep import seeds, start_sweep, wait_for


def is_alive(pid: int) -> bool:
    try:
        # A killed process that nobody has asked about yet is still listed, as a zombie.
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def none_alive(logs) -> bool:
    return not any(is_alive(each.pid) for each in logs.trace())


def start_two_of_four(logs, **plan):
    logs.plan({seed: {"seconds": 30, **plan} for seed in range(4)})
    launcher = start_sweep(logs.path, *seeds(*range(4)))
    wait_for(lambda: len(logs.trace("start")) == 2)
    return launcher


def test_ctrl_c_once_lets_running_jobs_write_a_checkpoint_and_starts_no_others(logs):
    launcher = start_two_of_four(logs)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(10) == 130
    assert logs.seeds("stop") == logs.seeds("start") == [0, 1]
    assert read_record(logs.run_directory(0))["status"] == "running"
    assert "plain20 seed 0: interrupted: stopped after the checkpoint of step 64,000" in launcher.stdout.read()
    assert none_alive(logs)


@pytest.mark.slow
def test_sigterm_says_that_the_same_command_continues(logs):
    launcher = start_two_of_four(logs, saving=0.5)
    launcher.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    launcher.send_signal(signal.SIGTERM)  # as `timeout` does; two in an instant are one
    assert launcher.wait(10) == 75
    assert logs.seeds("stop") == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_schedulers_signals_reach_the_jobs_too(logs, number):
    launcher = start_two_of_four(logs)
    launcher.send_signal(number)
    assert launcher.wait(10) == 75
    assert logs.seeds("stop") == logs.seeds("start") == [0, 1]


def test_a_process_of_a_run_whose_first_one_is_gone_ends():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = {**os.environ, "LOCAL_RANK": "1", FIRST_PROCESS: str(gone.pid)}
    command = [sys.executable, "-m", "depthlab.runs.process", "any.json"]
    orphan = subprocess.run(command, env=environment, timeout=60, check=False)
    assert orphan.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_ctrl_c_twice_stops_now(logs):
    launcher = start_two_of_four(logs, stubborn=True)
    launcher.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping" in launcher.stdout.readline())
    time.sleep(0.5)
    assert not none_alive(logs)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(10) == 130
    assert none_alive(logs)


@pytest.mark.slow
def test_ctrl_c_twice_leaves_two_seconds_for_a_checkpoint_that_is_being_written(logs):
    launcher = start_two_of_four(logs, saving=1.0)
    launcher.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping" in launcher.stdout.readline())
    time.sleep(0.4)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(10) == 130
    assert logs.seeds("stop") == [0, 1]


def test_a_killed_launcher_leaves_no_process(logs):
    launcher = start_two_of_four(logs, stubborn=True, child=True)
    wait_for(lambda: len(logs.trace("child")) == 2)
    assert not none_alive(logs)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: none_alive(logs), seconds=5)


@pytest.mark.slow
def test_a_killed_job_takes_its_processes_along_and_fails_alone(logs):
    logs.plan({0: {"seconds": 30, "child": True}, 1: {"seconds": 0.5}})
    launcher = start_sweep(logs.path, *seeds(0, 1))
    wait_for(lambda: len(logs.trace("child")) == 1)
    (job,) = [each for each in logs.trace("start") if each.seed == 0]
    os.kill(job.pid, signal.SIGKILL)
    assert launcher.wait(10) == 1
    assert "plain20 seed 0: failed: killed by signal 9" in launcher.stdout.read()
    assert none_alive(logs)


@pytest.mark.slow
def test_what_a_job_leaves_behind_is_killed_when_it_ends(logs):
    logs.plan({0: {"child": True, "detached": True}})
    launcher = start_sweep(logs.path, *seeds(0))
    assert launcher.wait(10) == 0
    assert len(logs.trace("child")) == 1
    assert none_alive(logs)


@pytest.mark.slow
def test_the_same_command_continues_what_was_stopped(logs):
    launcher = start_two_of_four(logs)
    launcher.send_signal(signal.SIGINT)
    launcher.wait(10)
    logs.plan({})
    again = start_sweep(logs.path, *seeds(*range(4)))
    assert again.wait(20) == 0
    assert logs.seeds("end") == [0, 1, 2, 3]
    assert "plain20 seed 0: unfinished (running" in again.stdout.read()


@pytest.mark.slow
def test_a_closed_terminal_or_pipe_costs_no_work(logs):
    logs.plan({seed: {"seconds": 0.4} for seed in range(4)})
    launcher = start_sweep(logs.path, *seeds(*range(4)))
    wait_for(lambda: "start" in launcher.stdout.readline())
    launcher.stdout.close()
    assert launcher.wait(20) == 0
    assert logs.seeds("end") == [0, 1, 2, 3]
