"""The list of planted faults fits the code: each can be planted, and leaves Python that parses."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from .conftest import ROOT, load_script

SCRIPT = load_script("scripts/planted_faults.py")
FAULTS: list[Any] = SCRIPT.read_faults()


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_each_fault_can_be_planted(fault: Any) -> None:
    before = (ROOT / SCRIPT.PACKAGE / fault.file).read_text(encoding="utf-8")
    after = fault.planted(before)
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before))


def test_the_list_is_long_and_says_each_fault_once() -> None:
    assert len(FAULTS) >= 30
    assert len({fault.what for fault in FAULTS}) == len({(fault.file, fault.old, fault.new) for fault in FAULTS})
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize(("text", "times"), [("", 0), ("aa", 2)])
def test_a_fault_whose_place_is_gone_is_refused(text: str, times: int) -> None:
    with pytest.raises(ValueError, match=f"occurs {times} times"):
        SCRIPT.Fault("a fault", "file.py", "a", "b").planted(text)


@pytest.mark.slow
def test_a_copy_imports_its_own_code_and_not_the_installed_one(tmp_path: Any) -> None:
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
