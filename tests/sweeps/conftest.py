"""What the tests of sweeps share: a log folder with a plan for the stub jobs, and what those jobs left."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest


class Logs:
    """A log folder, what stub jobs are to do in it, and what they did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan({})

    def plan(self, by_seed: dict[int, dict]) -> None:
        (self.path / "plan.json").write_text(json.dumps(by_seed))

    def trace(self, event: str | None = None) -> list[SimpleNamespace]:
        path = self.path / "trace.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        events = [SimpleNamespace(**json.loads(line)) for line in lines]
        return [each for each in events if event in (None, each.event)]

    def seeds(self, event: str) -> list[int]:
        return sorted(each.seed for each in self.trace(event))

    def run_directory(self, seed: int) -> Path:
        (found,) = (self.path / "stubs").glob(f"*-seed{seed}-*")
        return found


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of this test's own where launchers meet: its devices are simulated, those of other tests too."""
    folder = tmp_path_factory.mktemp("runtime")
    monkeypatch.setenv("DEPTHLAB_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)
