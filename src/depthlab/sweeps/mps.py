"""NVIDIA's MPS, which lets kernels of several processes run side by side on one GPU.

Without MPS the kernels of different processes take turns. The launcher starts a control daemon for each GPU that it
shares, in a folder of its own, through a keeper: a process that ends the daemon when the launcher's end of a pipe is
closed, and so also after the launcher was killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from depthlab.errors import InputError
from depthlab.runs.parent import die_with_parent

CONTROL = "nvidia-cuda-mps-control"
PIPE_VARIABLE, LOG_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
DEFAULT_FOLDER = Path("/tmp/nvidia-mps")  # where clients look, and where a daemon of the machine's owner lives
READY_SECONDS, QUIT_SECONDS, CLIENT_SECONDS = 10.0, 10.0, 30.0
NO_DRIVER = 3  # the exit code of CLIENT where there is nothing to try
# Opens the GPU as a job does, without torch: a daemon may run where its clients cannot reach it, as in some containers.
CLIENT = f"""
import ctypes, sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    sys.exit({NO_DRIVER})
device, context = ctypes.c_int(), ctypes.c_void_p()
for call in (
    lambda: cuda.cuInit(0),
    lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
    lambda: cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
):
    if code := call():
        sys.exit(f"a process under it cannot open the GPU (CUDA error {{code}})")
"""
MODES = ("auto", "on", "off")


class MpsDaemons:
    """A control daemon for each shared GPU, from the first job on it to the end of the sweep.

    Args:
        mode: "off"; "on" for an error where MPS cannot be used; "auto" to go on without it.
        uuids: what a device is called everywhere, by what it is called here.
        say: is told, once, what was found or done.
        default_folder: where a daemon of somebody else would be.
    """

    def __init__(
        self,
        mode: str,
        uuids: Mapping[str, str],
        say: Callable[[str], None],
        default_folder: Path = DEFAULT_FOLDER,
    ) -> None:
        self._mode = mode
        self._uuids = uuids
        self._say = say
        self._default_folder = default_folder
        self._keepers: dict[str, subprocess.Popen[str]] = {}
        self._environments: dict[str, dict[str, str]] = {}
        self._joins = False  # the daemon of this user that was there before
        self._folder: Path | None = None

    def environment(self, device: str) -> dict[str, str]:
        """The variables of a job on `device`; starts the daemon for the first one.

        Raises:
            InputError: the mode is "on" and there is no daemon.
        """
        if device not in self._environments:
            self._environments[device] = self._join(device)
        return self._environments[device]

    def serves(self, device: str) -> bool:
        """Whether jobs on `device` run under MPS."""
        return device in self._keepers or self._joins

    def close(self) -> None:
        """End the daemons that this launcher has started."""
        for keeper in self._keepers.values():
            assert keeper.stdin is not None
            keeper.stdin.close()
        for keeper in self._keepers.values():
            try:
                keeper.wait(QUIT_SECONDS + 5)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
        self._keepers.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _join(self, device: str) -> dict[str, str]:
        if self._mode == "off":
            return {}
        theirs = self._daemon_there()
        if theirs is not None:
            return theirs
        reason = self._start(device)
        if reason is None:
            return self._as_client(device)
        return self._without(f"MPS could not be started: {reason}")

    def _daemon_there(self) -> dict[str, str] | None:
        """What to do beside a daemon that is there already: join our own, keep away from another user's."""
        named = os.environ.get(PIPE_VARIABLE)
        folder = Path(named) if named else self._default_folder
        if not (folder / "control").exists():
            return None
        if (folder / "control").stat().st_uid == os.getuid():
            if not self._joins:
                self._say(f"MPS: using the daemon that runs already ({folder})")
            self._joins = True
            return {}
        # A server works for one user at a time: jobs would wait until the other user's have ended.
        where = {PIPE_VARIABLE: str(self._private_folder() / "none")}
        return self._without(f"MPS: the daemon in {folder} is another user's", where)

    def _without(self, reason: str, environment: dict[str, str] | None = None) -> dict[str, str]:
        if self._mode == "on":
            raise InputError(f"hydra.launcher.mps=on: {reason}. Use hydra.launcher.mps=auto to go on without it.")
        self._say(f"{reason}. The jobs on one GPU take turns.")
        return environment or {}

    def _start(self, device: str) -> str | None:
        """Start the daemon for `device`; why not, where that fails."""
        if shutil.which(CONTROL) is None:
            return f"{CONTROL} is not installed"
        place = self._private_folder() / device.replace("/", "-")
        for name in ("pipe", "log"):
            (place / name).mkdir(parents=True, exist_ok=True)
        visible = uuid_of(device, self._uuids) or device
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "depthlab.sweeps.mps"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_folders(place), "CUDA_VISIBLE_DEVICES": visible},
            start_new_session=True,  # Ctrl-C in the terminal reaches the launcher alone
            text=True,
        )
        assert keeper.stdout is not None and keeper.stdin is not None
        said = keeper.stdout.readline().strip()
        if said == "ready" and (obstacle := _obstacle_to_clients(self._as_client(device))):
            said = obstacle
        if said == "ready":
            self._keepers[device] = keeper
            self._say(f"MPS: started for GPU {device}")
            return None
        keeper.stdin.close()
        keeper.wait()
        return said or "its keeper ended"

    def _as_client(self, device: str) -> dict[str, str]:
        # The daemon sees one GPU, and numbers are counted among those that it sees.
        place = self._private_folder() / device.replace("/", "-")
        return {PIPE_VARIABLE: str(place / "pipe"), "CUDA_VISIBLE_DEVICES": uuid_of(device, self._uuids) or "0"}

    def _private_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="depthlab-mps-"))
        return self._folder


def _obstacle_to_clients(environment: Mapping[str, str]) -> str | None:
    """Why a job with these variables would fail; None where it would not, or where that cannot be tried."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", CLIENT],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=CLIENT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"a process under it could not open the GPU within {CLIENT_SECONDS:.0f} s"
    if done.returncode in (0, NO_DRIVER):
        return None
    return done.stderr.strip() or f"a process under it ended with code {done.returncode}"


def uuid_of(device: str, uuids: Mapping[str, str]) -> str | None:
    """The name that NVIDIA's tools know a device by; torch leaves the first letters out. None where it is not known."""
    found = uuids.get(device)
    return None if found is None else found if found.startswith(("GPU-", "MIG-")) else f"GPU-{found}"


def compute_mode(device: str) -> str:
    """The compute mode of a GPU as nvidia-smi says it, "Exclusive_Process" for one; "" where it cannot be asked."""
    command = ["nvidia-smi", "--query-gpu=compute_mode", "--format=csv,noheader", "-i", device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _folders(place: Path) -> dict[str, str]:
    return {PIPE_VARIABLE: str(place / "pipe"), LOG_VARIABLE: str(place / "log")}


def keep() -> None:
    """Run a control daemon until standard input ends. Its first line of output is "ready", or why it is not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    keeper = os.getpid()
    output = Path(os.environ[LOG_VARIABLE]) / "output.txt"
    with output.open("wb") as file:
        daemon = subprocess.Popen(
            [CONTROL, "-f"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(keeper),  # noqa: PLW1509 - there is one thread
        )
    try:
        print(_wait_until_ready(daemon, output), flush=True)
        if daemon.poll() is None:
            sys.stdin.read()
    finally:
        _quit(daemon)


def _wait_until_ready(daemon: subprocess.Popen[bytes], output: Path) -> str:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if daemon.poll() is not None:
            lines = output.read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {daemon.returncode}")
        if _ask("get_server_list") == 0:
            return "ready"
        time.sleep(0.1)
    return f"no answer within {READY_SECONDS:.0f} s"


def _ask(command: str) -> int | None:
    try:
        return subprocess.run(
            [CONTROL], input=f"{command}\n", text=True, capture_output=True, timeout=QUIT_SECONDS / 2, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return None


def _quit(daemon: subprocess.Popen[bytes]) -> None:
    if daemon.poll() is None:
        _ask("quit -t 2")  # its servers end with it, after two seconds also those with clients
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(QUIT_SECONDS / 2)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(daemon.pid, signal.SIGKILL)  # whatever of its session is left
    daemon.wait()


if __name__ == "__main__":
    keep()
