"""Count the random changes of the code that the nearest tests notice: python scripts/mutate.py N [--seed S] [--jobs K]

Draws N places in models, data, tasks, optim, training and records, changes each in a copy of the working tree (an
operator, a comparison, a constant, a negated condition, a removed statement) and runs the tests of the changed module
there, then those of its room, then, with --then, the tests named. Prints the survivors; exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import ast
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from planted_faults import PACKAGE, ROOT, copy_tree, first_failure

ROOMS = ("models", "data", "tasks", "optim", "training", "records")
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Mutant:
    """The bytes from `start` to `end` of `file` (below src/depthlab) become `new`."""

    file: str
    line: int
    start: int
    end: int
    old: str
    new: str

    def applied(self, source: bytes) -> bytes:
        """The content of the file with the change in it."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def nearest_tests(self, tree: Path) -> list[str]:
        """The module's own tests, and those of its room, as far as they exist."""
        path = Path(self.file)
        room = path.parts[0]  # training/callbacks/ is tested in tests/training/
        nearest = [f"tests/{room}/test_{path.stem}.py", f"tests/{room}"]
        return [name for name in nearest if (tree / name).exists()]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {' '.join(self.old.split())}  ->  {' '.join(self.new.split())}"


def mutants_of(file: str, source: bytes) -> Iterator[Mutant]:
    """Every change that can be made to a file."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tree = ast.parse(source)
    typing_only = {id(node) for hint in _hints(tree) for node in ast.walk(hint)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr | ast.stmt) or id(node) in typing_only or node.end_lineno is None:
            continue
        start, end = (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + (node.end_col_offset or 0),
        )
        for new in _changes(node):
            yield Mutant(file, node.lineno, start, end, source[start:end].decode(), new)


def _hints(tree: ast.AST) -> Iterator[ast.expr]:
    """Annotations, which have no effect while the program runs."""
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            hint = getattr(node, name, None)
            if isinstance(hint, ast.expr):
                yield hint


def _changes(node: ast.expr | ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        yield _with(node, "op", OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield _with(node, "ops", [OPERATORS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield repr(not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.IfExp):
        yield f"({ast.unparse(node.orelse)} if {ast.unparse(node.test)} else {ast.unparse(node.body)})"
    elif isinstance(node, ast.Raise | ast.Continue) or _is_call(node):
        yield "pass"
    elif isinstance(node, ast.Return) and node.value is not None:
        yield "return None"


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)  # which would be a docstring


def _with(node: ast.expr | ast.stmt, name: str, value: object) -> str:
    before = getattr(node, name)
    setattr(node, name, value)
    text = ast.unparse(node)
    setattr(node, name, before)
    return f"({text})" if isinstance(node, ast.expr) else text


def draw(number: int, seed: int) -> list[Mutant]:
    """That many different mutants of the rooms, the same ones for the same seed and the same code."""
    paths = [path for room in ROOMS for path in sorted((ROOT / PACKAGE / room).rglob("*.py"))]
    everything = [
        mutant for path in paths for mutant in mutants_of(str(path.relative_to(ROOT / PACKAGE)), path.read_bytes())
    ]
    return random.Random(seed).sample(everything, number)


def killer(mutant: Mutant, then: Sequence[str]) -> str | None:
    """The first test that fails with the change in place; None if it survives."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        tree = Path(name, "tree")
        copy_tree(tree)
        path = tree / PACKAGE / mutant.file
        path.write_bytes(mutant.applied(path.read_bytes()))
        for tests in [*mutant.nearest_tests(tree), *then]:
            if failed := first_failure(tree, [tests]):
                return failed
    return None


def baseline(then: Sequence[str]) -> str | None:
    """The first test that fails in an unchanged copy, which would count as killing everything."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        tree = Path(name, "tree")
        copy_tree(tree)
        return first_failure(tree, [*(f"tests/{room}" for room in ROOMS if (tree / "tests" / room).is_dir()), *then])


def main() -> int:
    """Try out as many mutants as were asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, metavar="N", help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default 0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="K", help="mutants tried at a time (default 1)")
    parser.add_argument("--then", nargs="+", default=[], metavar="PATH", help="tests for those that the nearest miss")
    arguments = parser.parse_args()
    mutants = draw(arguments.number, arguments.seed)
    if failed := baseline(arguments.then):
        print(f"error: {failed} fails without any change; repair it first.", file=sys.stderr)
        return 2
    survivors = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = pool.map(lambda mutant: killer(mutant, arguments.then), mutants)
        for number, (mutant, killed_by) in enumerate(zip(mutants, results, strict=True), start=1):
            print(f"{number:3d}  {'killed' if killed_by else 'SURVIVED':8}  {mutant}")
            print(f"{'':15}{killed_by or 'every test passed'}", flush=True)
            survivors += [] if killed_by else [mutant]
    print(f"killed {len(mutants) - len(survivors)} of {len(mutants)} mutants; survivors:")
    for mutant in survivors:
        print(f"  {mutant}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
