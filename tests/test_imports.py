"""The plan of the package, read from its source: imports go downward, so that a wrong one fails even where it works."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parent.parent / "src"
LIGHTNING = {"lightning", "pytorch_lightning", "torchmetrics"}
CONFIGURATION = {"hydra", "omegaconf"}
TORCH = {"torch", "torchvision"}

# The rooms from the ground up; those of one floor do not import each other.
FLOORS = [
    ["depthlab.shown_text"],
    ["depthlab.errors"],
    ["depthlab.config"],
    ["depthlab.models", "depthlab.data", "depthlab.tasks", "depthlab.optim"],
    ["depthlab.records"],
    ["depthlab.training"],
    ["depthlab.runs"],
    ["depthlab.sweeps"],
    ["depthlab.report"],
    ["depthlab.commands"],
    ["depthlab.__main__", "hydra_plugins"],
    ["depthlab_benchmarks"],
]
# Within a floor: what one room says to the other.
SAME_FLOOR = {
    ("depthlab.tasks", "depthlab.data.batch"),  # the batch that losses and metrics receive
    ("depthlab.optim", "depthlab.models.freezing"),  # which parameters are the classifier's
}
# The report reads files: what it may import from below besides the records.
REPORT_MAY_IMPORT = {
    "depthlab",
    "depthlab.errors",
    "depthlab.shown_text",  # what is made of text for each kind of output
    "depthlab.config.console",  # the terminal
    "depthlab.config.identity",  # which keys tell runs apart
    "depthlab.config.metric_info",  # how a metric is read
    "depthlab.runs.frozen",  # where the configurations of runs to come lie
}


# A name that is compared with what a configuration says, and neither imported nor started.
COMPARED = {("depthlab.config.hydra_keys", "hydra_plugins.depthlab_pool")}
WRITES_YAML = "depthlab.runs.execute"  # a run's config.yaml


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(SRC.rglob("*.py")) if "depthlab_extensions" not in path.parts}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@cache
def imported(module: str, types_too: bool = False) -> frozenset[str]:
    """Every module that a module's source names in an import, also inside functions."""
    return frozenset(_names(tree_of(module), types_too))


def _names(node: ast.AST, types_too: bool) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types_too:
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide the direction"
        base = str(node.module)
        yield from (f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _names(child, types_too)


@cache
def named_in_strings(module: str) -> frozenset[str]:
    """Modules of ours in string literals, as in "-m depthlab.runs.process"; docstrings may speak of any."""
    tree = tree_of(module)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    words = (
        word.rstrip(".")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        for word in re.findall(r"\b(?:depthlab|depthlab_benchmarks|hydra_plugins)(?:\.\w*)+", node.value)
    )
    # "depthlab.runs.run.run" names a function of a module.
    return frozenset(_module_of(word) for word in words) - {"depthlab"}


def _module_of(word: str) -> str:
    """The longest part of a dotted name that is a module: a function of it may follow."""
    while word not in FILES:
        word = word.rpartition(".")[0] or "depthlab"
    return word


def used(module: str) -> frozenset[str]:
    """The modules of ours that a module imports or starts."""
    return frozenset(name for name in imported(module) | named_in_strings(module) if name in FILES and name != module)


def top_level(module: str) -> set[str]:
    return {name.split(".")[0] for name in imported(module)}


def below(*prefixes: str) -> list[str]:
    """The modules named, and those inside them."""
    found = [name for name in FILES for prefix in prefixes if name == prefix or name.startswith(f"{prefix}.")]
    assert found, prefixes
    return found


def room(module: str) -> str | None:
    """The room of a module; None for depthlab itself, which holds the version alone."""
    rooms = [name for floor in FLOORS for name in floor if module == name or module.startswith(f"{name}.")]
    return max(rooms, key=len, default=None)


FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def test_every_module_has_a_room() -> None:
    assert [name for name in FILES if room(name) is None] == ["depthlab"]
    assert used("depthlab") == {"depthlab.runs", "depthlab.runs.evaluate", "depthlab.runs.open_run"}  # on first use
    assert {name for name in FLOOR_OF if not any(room(module) == name for module in FILES)} == set()


@pytest.mark.parametrize("module", sorted(set(FILES) - {"depthlab"}))
def test_imports_and_names_of_modules_go_downward(module: str) -> None:
    own = str(room(module))
    for name in used(module) - {"depthlab"}:
        theirs = str(room(name))
        if theirs == own or (own, name) in SAME_FLOOR or (module, name) in COMPARED:
            continue
        assert FLOOR_OF[theirs] < FLOOR_OF[own], f"{module} uses {name}"


@pytest.mark.parametrize(("user", "name"), sorted(SAME_FLOOR))
def test_rooms_of_one_floor_say_to_each_other_only_what_is_listed_and_is_in_use(user: str, name: str) -> None:
    for_types = {each for module in below(user) for each in imported(module, types_too=True)}
    assert name in for_types
    others = {each for each in FLOORS[FLOOR_OF[user]] if each != user}
    assert {each for each in for_types if room(each) in others} == {name}


def test_models_and_data_do_without_the_other_rooms_of_their_floor() -> None:
    for own in ("depthlab.models", "depthlab.data"):
        others = {each for each in FLOORS[FLOOR_OF[own]] if each != own}
        for module in below(own):
            assert not {name for name in imported(module, types_too=True) if room(name) in others}, module


def test_the_report_reads_files() -> None:
    for module in below("depthlab.report"):
        others = {name for name in used(module) if room(name) not in ("depthlab.report", "depthlab.records")}
        assert others <= REPORT_MAY_IMPORT, module
    found = reachable("depthlab.report.report")
    assert not found & set(below("depthlab.runs.run", "depthlab.training", "depthlab.models", "depthlab.tasks"))


def test_a_run_does_not_know_the_report() -> None:
    assert not reachable("depthlab.runs.run") & set(below("depthlab.report", "depthlab.sweeps", "depthlab.commands"))


LIBRARIES: list[tuple[list[str], set[str]]] = [
    (below("depthlab.models", "depthlab.optim"), LIGHTNING | CONFIGURATION),
    ([name for name in below("depthlab.data") if name != "depthlab.data.datamodule"], LIGHTNING | CONFIGURATION),
    (below("depthlab.data", "depthlab.tasks", "depthlab.training"), CONFIGURATION),
    (below("depthlab.records"), LIGHTNING | CONFIGURATION),
    ([name for name in below("depthlab.records") if name != "depthlab.records.checkpoints"], TORCH),
    (below("depthlab.report"), TORCH | LIGHTNING | CONFIGURATION),
    (below("depthlab.sweeps"), TORCH | LIGHTNING),
    ([name for name in below("depthlab.config") if name != "depthlab.config.hardware"], TORCH | LIGHTNING),
    ([name for name in below("depthlab.runs") if name != WRITES_YAML], CONFIGURATION),
    (
        below(*(f"depthlab.config.{name}" for name in ("registry", "identity", "combinations", "hardware"))),
        CONFIGURATION,
    ),
]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [(module, forbidden) for modules, forbidden in LIBRARIES for module in modules],
    ids=lambda value: value if isinstance(value, str) else " ".join(sorted(value)),
)
def test_a_room_does_without_the_libraries_above_it(module: str, forbidden: set[str]) -> None:
    assert not top_level(module) & forbidden


def test_hydra_and_omegaconf_appear_where_configurations_are_read_and_nowhere_else() -> None:
    users = {module for module in FILES if top_level(module) & CONFIGURATION}
    rooms = below("depthlab.config", "depthlab.commands", "depthlab.sweeps", "hydra_plugins")
    assert users <= {WRITES_YAML, *rooms}


def test_no_torch_is_imported_by_the_registry_and_every_spec() -> None:
    """Nor by whatever else a command needs that starts no run: --help, and a typo that is refused."""
    modules = [
        name
        for name in FILES
        if room(name) == "depthlab.config" or name.endswith(".spec") or ".components" in name or name in LIGHT
    ]
    assert len(modules) > 40
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
from depthlab.config.registry import groups
assert all(group.components for group in groups().values())
print(*sorted({{name.split(".")[0] for name in sys.modules}} & {TORCH | LIGHTNING!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


LIGHT = ("depthlab.models", "depthlab.data", "depthlab.optim", "depthlab.tasks", "depthlab.optim.schedules")


def test_the_root_of_the_package_is_nearly_empty() -> None:
    files = {path.name for path in (SRC / "depthlab").iterdir() if path.is_file()}
    assert len(files - {"__init__.py", "__main__.py", "py.typed"}) <= 2


def test_a_run_is_told_in_few_imports() -> None:
    assert len({name for name in imported("depthlab.runs.run") if name in FILES}) < 12


def reachable(module: str) -> set[str]:
    """Everything of ours that importing or using a module can import."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = {name for name in imported(waiting.pop()) if name in FILES} - found - {"depthlab"}
        found |= new
        waiting += new
    return found


def test_imports_go_in_no_circle() -> None:
    modules = set(FILES) - {"depthlab"}  # which only hands load_run on, when it is first asked for
    graph = {module: imported(module) & modules - {module} for module in modules}
    for module, names in graph.items():  # a package names its own modules, and they may name each other
        graph[module] = {name for name in names if not (name == module.rpartition(".")[0] and name.count(".") == 1)}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('"-m depthlab.runs.process"', {"depthlab.runs.process"}),
        ('["-m", "depthlab.runs.process"]', {"depthlab.runs.process"}),
        ('f"depthlab.commands.{name}"', {"depthlab.commands"}),
        ('patch("depthlab.runs.run.run")', {"depthlab.runs.run"}),
        ('"depthlab.extensions", "depthlab.key"', set()),
    ],
)
def test_strings_that_name_modules_are_seen(
    monkeypatch: pytest.MonkeyPatch, source: str, names: set[str], tmp_path: Path
) -> None:
    path = tmp_path / "strings.py"
    path.write_text(f'"""Says depthlab.report.report."""\nvalue = {source}\n')
    monkeypatch.setitem(FILES, f"written_{abs(hash(source))}", path)
    assert named_in_strings(f"written_{abs(hash(source))}") == names


def test_what_prepares_for_signals_imports_next_to_nothing() -> None:
    """A signal before that is Python's, with its traceback."""
    program = "import sys; before = set(sys.modules); import depthlab.runs.exits; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if name.startswith("depthlab")} == {
        "depthlab",
        "depthlab.runs",
        "depthlab.runs.exits",
    }
    assert not {"numpy", "torch", "hydra"} & set(done.stdout.split())
