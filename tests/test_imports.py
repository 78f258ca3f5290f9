"""Imports go downward: read from the source, so that a wrong one fails even where it would work."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parent.parent / "src"
ROOMS = ("models", "data", "training", "records", "analysis", "sweeps")
LIGHTNING = {"lightning", "pytorch_lightning", "torchmetrics"}
CONFIGURATION = {"hydra", "omegaconf"}
STORIES = {f"depthlab.{name}" for name in ("run", "report", "build", "evaluation", "job")}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}


@cache
def imported(module: str) -> frozenset[str]:
    """Every module that a module's source names in an import, also inside functions; not those for types alone."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    return frozenset(_names(tree))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide the direction"
        base = str(node.module)
        yield from (f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _names(child)


def top_level(module: str) -> set[str]:
    return {name.split(".")[0] for name in imported(module)}


def below(*prefixes: str) -> list[str]:
    """The modules named, and those inside them."""
    found = [name for name in FILES for prefix in prefixes if name == prefix or name.startswith(f"{prefix}.")]
    assert found, prefixes
    return found


RULES: list[tuple[list[str], set[str]]] = [
    (below("depthlab.models"), LIGHTNING | CONFIGURATION),
    (
        below(*(f"depthlab.data.{name}" for name in ("sources", "splits", "stream", "images"))),
        LIGHTNING | CONFIGURATION,
    ),
    (below("depthlab.data", "depthlab.training"), CONFIGURATION),
    (below("depthlab.records"), LIGHTNING | CONFIGURATION),
    ([name for name in below("depthlab.records") if name != "depthlab.records.checkpoints"], {"torch"}),
    (below("depthlab.report.core", "depthlab.report.report"), {"torch", "torchvision"} | LIGHTNING | CONFIGURATION),
    (below("depthlab.sweeps"), {"torch", "torchvision"} | LIGHTNING),
    (
        below("depthlab.runs.build", "depthlab.runs.evaluate", "depthlab.runs.process", "depthlab.config.hardware"),
        CONFIGURATION,
    ),
]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [(module, forbidden) for modules, forbidden in RULES for module in modules],
    ids=lambda value: value if isinstance(value, str) else " ".join(sorted(value)),
)
def test_a_room_does_without_the_libraries_above_it(module: str, forbidden: set[str]) -> None:
    assert not top_level(module) & forbidden


def test_hydra_and_omegaconf_appear_where_the_command_is_read_and_nowhere_else() -> None:
    users = {module for module in FILES if top_level(module) & CONFIGURATION}
    allowed = {
        "depthlab.config.check",
        "depthlab.config.commandline",
        "depthlab.runs.run",
        "depthlab.config.schema",
        *below("depthlab.sweeps", "hydra_plugins"),
    }
    assert users <= allowed


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_a_story(room: str) -> None:
    for module in below(f"depthlab.{room}"):
        assert not imported(module) & STORIES, module


def test_training_and_reporting_meet_only_in_files() -> None:
    assert not reachable("depthlab.runs.run") & set(below("depthlab.report.report", "depthlab.report.core"))
    assert not reachable("depthlab.report.report") & set(
        below("depthlab.runs.run", "depthlab.training", "depthlab.data")
    )


@pytest.mark.parametrize("room", ["models", "data", "records"])
def test_floor_0_knows_no_other_room(room: str) -> None:
    allowed = {"depthlab.errors", *below(f"depthlab.{room}")}
    for module in below(f"depthlab.{room}"):
        assert {name for name in imported(module) if name.startswith("depthlab")} <= allowed, module


def reachable(module: str) -> set[str]:
    """Everything of ours that importing or using a module can import."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = {name for name in imported(waiting.pop()) if name in FILES} - found
        found |= new
        waiting += new
    return found


def test_imports_go_in_no_circle() -> None:
    graph = {module: {name for name in imported(module) if name in FILES and name != module} for module in FILES}
    for module, names in graph.items():  # a package names its own modules, and they may name each other
        graph[module] = {name for name in names if not (name == module.rpartition(".")[0] and name.count(".") == 1)}
    assert list(TopologicalSorter(graph).static_order())
