"""The mutation tool changes what it says it changes, and nothing else."""

from __future__ import annotations

import ast
import sys

import pytest

from .conftest import ROOT, load_script

sys.path.insert(0, str(ROOT / "scripts"))  # where a script finds the ones beside it
SCRIPT = load_script("scripts/mutate.py")

SOURCE = b'''"""A module."""
def f(x: int = 3) -> bool:
    """A docstring."""
    print("\xc3\xa4", x)
    if not x < 2 and x + 1 == 4:
        raise ValueError
    return True if x else x is None
'''


def test_every_kind_of_change_is_made_once() -> None:
    changes = {" ".join(mutant.new.split()) for mutant in SCRIPT.mutants_of("f.py", SOURCE)}
    assert changes >= {"pass", "4", "(not x < 2 or x + 1 == 4)", "(x < 2)", "(x <= 2)", "(x - 1)", "(x + 1 != 4)"}
    assert changes >= {"False", "return None", "(x is not None)", "(x is None if x else True)"}


def test_each_mutant_is_python_and_differs() -> None:
    before = ast.dump(ast.parse(SOURCE))
    for mutant in SCRIPT.mutants_of("f.py", SOURCE):
        assert ast.dump(ast.parse(mutant.applied(SOURCE))) != before


def test_the_draw_follows_its_seed_and_stays_in_the_rooms() -> None:
    first, again, other = (SCRIPT.draw(30, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert {mutant.file.split("/")[0] for mutant in first} <= set(SCRIPT.ROOMS)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("data/splits.py", ["tests/data/test_splits.py", "tests/data"]),
        ("training/callbacks/progress.py", ["tests/training/test_progress.py", "tests/training"]),
    ],
)
def test_the_nearest_tests_come_first(file: str, expected: list[str]) -> None:
    assert SCRIPT.Mutant(file, 1, 0, 1, "a", "b").nearest_tests(ROOT) == expected
