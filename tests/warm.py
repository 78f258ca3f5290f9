"""Command lines in forks of a process that has imported everything: what Python needs for its imports is saved.

The words, the working directory, the environment, the streams and the exit code are those of a process of its own. A
test of imports, or of what the environment tells Python at its start, needs a real one.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path


class Warm:
    """Starts the process at the first command, and ends it with `close`.

    Args:
        environment: of that process, where it must import another copy of the project.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, words: Sequence[str], cwd: Path, environment: Mapping[str, str], streams: Path, timeout_seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """`python WORDS` in a fork; `streams` is a folder for what it prints.

        Raises:
            subprocess.TimeoutExpired: it took longer; it was killed.
        """
        out, err = streams / "stdout", streams / "stderr"
        asked = {
            "words": list(words),
            "cwd": str(cwd),
            "environment": dict(environment),
            "streams": [str(out), str(err)],
            "timeout_seconds": timeout_seconds,
        }
        code = self._ask(asked)
        if code is None:
            raise subprocess.TimeoutExpired(list(words), timeout_seconds, out.read_bytes(), err.read_bytes())
        texts = (path.read_text(encoding="utf-8", errors="replace") for path in (out, err))
        return subprocess.CompletedProcess(list(words), code, *texts)

    def _ask(self, asked: Mapping[str, object]) -> int | None:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment,
                text=True,
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        code: int | None = json.loads(self._server.stdout.readline())
        return code

    def close(self) -> None:
        """End the process."""
        if self._server is not None:
            self._server.communicate()


def serve() -> None:
    """Fork for each line of stdin, and answer with the exit code; null if the time was up."""
    here = str(Path(__file__).parent)  # the start of this file put it there, unless PYTHONSAFEPATH is set
    sys.path[:] = [place for place in sys.path if place != here]
    import depthlab.report.report
    import depthlab.runs.run  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(asked)
        print(json.dumps(_wait(pid, asked["timeout_seconds"])), flush=True)


def _become(asked: dict[str, object]) -> None:
    """Go on as a process of its own that runs these words."""
    words, cwd, environment, streams = (asked[key] for key in ("words", "cwd", "environment", "streams"))
    assert isinstance(words, list)
    assert isinstance(streams, list)
    assert isinstance(environment, dict)
    os.setsid()
    for descriptor, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(cwd))
    code = 0
    try:
        sys.argv = list(words)
        if words[0] == "-m":
            sys.path.insert(0, str(Path.cwd()))
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path.insert(0, str(Path(words[0]).absolute().parent))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        code = _exit_code(ended.code)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _exit_code(code: object) -> int:
    """As Python has it: None is success, and a text is printed."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def _wait(pid: int, timeout_seconds: float) -> int | None:
    deadline = time.monotonic() + timeout_seconds
    pause = 0.005
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(1.5 * pause, 0.1)
    os.killpg(pid, 9)
    os.waitpid(pid, 0)
    return None


if __name__ == "__main__":
    serve()
