"""What several test files share: composing configurations, running the real command line, the real data."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet
from omegaconf import OmegaConf

from depthlab.config.check import check
from depthlab.config.registry import components, groups
from depthlab.config.schema import TrainConfig
from depthlab.report.core.style import SETTINGS

from .warm import Warm

ROOT = Path(__file__).resolve().parent.parent
Compose = Callable[..., TrainConfig]
Uninterrupted = Callable[..., Path]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def load_script(name: str) -> ModuleType:
    """A script of the project as a module; it finds the scripts beside it, as it does when it is started."""
    if str(ROOT / "scripts") not in sys.path:
        sys.path.append(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


# Folders of whole runs and processes. They come first, so that no long test is left for the end.
LONGEST = ("tests/runs/", "tests/test_", "tests/sweeps/", "tests/training/", "tests/config/", "tests/report/")


def pytest_configure(config: pytest.Config) -> None:
    """Each worker takes tests that lie together, which make the fixtures of a module once, and steals when idle."""
    if config.getoption("dist", "no") == "load":
        config.option.dist = "worksteal"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; tests send it to processes
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders of long tests before those of short ones."""

    def place(item: pytest.Item) -> int:
        return next((rank for rank, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST))

    items.sort(key=place)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests share the cores with each other."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def files_parsed_once() -> Iterator[None]:
    """Hydra parses the same thirty files for each composition; in this process each is parsed once."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    parsed: dict[tuple[object, ...], Any] = {}
    load = FileConfigSource.load_config

    def load_once(self: FileConfigSource, config_path: str) -> Any:
        try:
            found = (Path(self.path) / self._normalize_file_name(config_path)).stat()
        except (OSError, ValueError):
            return load(self, config_path)
        key = self.path, config_path, found.st_mtime_ns, found.st_size, found.st_ino
        if key not in parsed:
            parsed[key] = load(self, config_path)
        return parsed[key].__class__(**{**vars(parsed[key]), "config": parsed[key].config.copy()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileConfigSource, "load_config", load_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def coarse_figures() -> Iterator[None]:
    """Write the figures of reports made in this process with fewer pixels, and without subsets of TrueType fonts.

    Nobody looks at them, and the two take half of the time of a report.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("depthlab.report.core.style.DPI", 30)
        patch.setitem(SETTINGS, "pdf.fonttype", 3)
        yield


@pytest.fixture
def full_size_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures with all their pixels, for a test that looks at their size."""
    monkeypatch.setattr("depthlab.report.core.style.DPI", 150)


@pytest.fixture(autouse=True)
def environment_restored() -> Iterator[None]:
    """Commands that are called in this process set variables for the processes that they start."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test outlives a power cut, and a run in a test would wait for the disk longer than it computes."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def compose_tree(*overrides: str) -> dict[str, object]:
    """The resolved configuration that these overrides give, as plain data."""
    registered = tuple(each.spec for group in groups() for each in components(group).values())
    return deepcopy(_composed(overrides, os.environ.get("DEPTHLAB_DATA_DIR"), registered))


@cache
def _composed(overrides: tuple[str, ...], *depends_on: object) -> dict[str, object]:
    """The tests of a process compose each configuration once; `depends_on` is what else decides about it."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(config_dir=str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def slowly(*values: object) -> list[ParameterSet]:
    """Values of a parameter for the slow tests, beside one for the fast ones."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def compose_short(log_dir: Path, *overrides: str) -> TrainConfig:
    """A short run on the digits, on one CPU thread."""
    tree = compose_tree(
        "data=digits",
        "trainer=cpu",
        "trainer.num_threads=1",
        "trainer.max_steps=12",
        "trainer.val_every_steps=6",
        "logger=csv",
        "logger.every_steps=3",
        "paths.log_dir=logs",
        *overrides,
    )
    paths = tree["paths"]
    assert isinstance(paths, dict)
    if paths["log_dir"] == "logs":  # set here, since a folder of each test's own would compose anew in each
        paths["log_dir"] = str(log_dir)
    return check(tree)


@pytest.fixture
def compose_config(tmp_path: Path) -> Compose:
    """Composes a short run below this test's own folder."""
    return partial(compose_short, tmp_path / "logs")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """The directory of a short run that nothing stopped; it is trained once for all the tests that compare with it."""
    log_dir = tmp_path_factory.mktemp("uninterrupted")

    @cache
    def trained(*overrides: str) -> Path:
        from depthlab.runs.run import run

        outcome = run(compose_short(log_dir, *overrides), "")
        assert outcome.status == "finished"
        return outcome.directory

    return trained


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Runs command lines in forks of one process."""
    process = Warm()
    yield process
    process.close()


@pytest.fixture
def command(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Command:
    """Runs a command line from the project's root, in a fork unless `fresh` asks for a process of its own."""

    def run(
        *arguments: str, timeout_seconds: float = 300, fresh: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        if not (fresh or arguments[0] == "-c"):
            return warm.run(arguments, ROOT, variables, tmp_path_factory.mktemp("streams"), timeout_seconds)
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=variables,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    return run


@pytest.fixture
def data_dir() -> Path:
    """The folder of real CIFAR-10 and MNIST files."""
    name = os.environ.get("DEPTHLAB_DATA_DIR")
    if not name:
        pytest.skip("DEPTHLAB_DATA_DIR is not set: no real CIFAR-10 and MNIST here")
    return (ROOT / name).resolve()
