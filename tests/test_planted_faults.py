"""Planted faults and mutants fit the code: each can be planted, changes what it says, and leaves Python that parses."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, load_script

SCRIPT, MUTATE = (load_script(f"scripts/{name}.py") for name in ("planted_faults", "mutate"))
FAULTS: list[Any] = SCRIPT.read_faults()

SOURCE = """
class Net:
    def forward(self, x):
        return x + 1


def forward(x):
    return x + 2
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of one module, in a folder of any depth."""
    (tmp_path / "rooms" / "models").mkdir(parents=True)
    (tmp_path / "rooms" / "models" / "net.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_each_fault_has_exactly_one_place_and_leaves_other_python_there(fault: Any) -> None:
    path, after = fault.planted(ROOT / SCRIPT.PACKAGE)
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(path.read_text(encoding="utf-8")))
    assert (ROOT / SCRIPT.nearest_tests(path, ROOT / SCRIPT.PACKAGE)).is_dir()


def test_the_list_is_long_and_says_each_fault_once() -> None:
    assert len(FAULTS) >= 30
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.function, fault.pattern, fault.new) for fault in FAULTS}) == len(FAULTS)


def test_a_place_is_found_by_function_and_pattern_wherever_the_file_lies(package: Path) -> None:
    path, text = SCRIPT.Fault("a fault", "Net.forward", r"x \+ \d", "x - 1").planted(package)
    assert path.name == "net.py"
    assert text == SOURCE.replace("x + 1", "x - 1")
    path.rename(package / "moved.py")
    assert SCRIPT.Fault("a fault", "forward", r"x \+ \d", "x").planted(package)[1] == SOURCE.replace("x + 2", "x")


@pytest.mark.parametrize(
    ("function", "pattern", "message"),
    [
        ("Net.backward", "x", "Net.backward: 'x' matches 0 times"),
        ("Net.forward", "y", "'y' matches 0 times"),
        ("Net.forward", "x", "'x' matches 2 times"),
    ],
)
def test_a_fault_whose_place_is_gone_or_not_unique_is_refused(
    package: Path, function: str, pattern: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SCRIPT.Fault("a fault", function, pattern, "z").planted(package)


@pytest.mark.slow
def test_a_copy_imports_its_own_code_and_not_the_installed_one(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    SCRIPT.copy_tree(tree)
    assert not (tree / SCRIPT.OWN_TEST).exists()
    (tree / "tests" / "test_place.py").write_text(
        "import depthlab\nfrom pathlib import Path\n"
        "def test_place():\n    assert Path(depthlab.__file__).is_relative_to(Path.cwd() / 'src')\n"
        "def test_fails():\n    assert False\n"
    )
    assert SCRIPT.first_failure(tree, ["tests/test_place.py"]) == "tests/test_place.py::test_fails"
    assert SCRIPT.first_failure(tree, ["tests/test_place.py::test_place"]) is None


MUTATED = b'''"""A module."""
def f(x: int = 3) -> bool:
    """A docstring."""
    print("\xc3\xa4", x)
    if not x < 2 and x + 1 == 4:
        raise ValueError
    return True if x else x is None
'''


def test_every_kind_of_change_is_made_once() -> None:
    changes = {" ".join(mutant.new.split()) for mutant in MUTATE.mutants_of("f.py", MUTATED)}
    assert changes >= {"pass", "4", "(not x < 2 or x + 1 == 4)", "(x < 2)", "(x <= 2)", "(x - 1)", "(x + 1 != 4)"}
    assert changes >= {"False", "return None", "(x is not None)", "(x is None if x else True)"}


def test_each_mutant_is_python_and_differs() -> None:
    before = ast.dump(ast.parse(MUTATED))
    for mutant in MUTATE.mutants_of("f.py", MUTATED):
        assert ast.dump(ast.parse(mutant.applied(MUTATED))) != before


def test_the_draw_follows_its_seed_and_stays_in_the_rooms() -> None:
    first, again, other = (MUTATE.draw(30, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert {mutant.file.split("/")[0] for mutant in first} <= set(MUTATE.ROOMS)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("data/splits.py", ["tests/data/test_splits.py", "tests/data"]),
        ("training/callbacks/progress.py", ["tests/training/test_progress.py", "tests/training"]),
    ],
)
def test_the_nearest_tests_come_first(file: str, expected: list[str]) -> None:
    assert MUTATE.Mutant(file, 1, 0, 1, "a", "b").nearest_tests(ROOT) == expected
