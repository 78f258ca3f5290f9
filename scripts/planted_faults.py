"""Count the planted faults that the fast tests notice: python scripts/planted_faults.py [--only N ...] [--jobs K]

Plants each fault of tests/planted_faults.toml in a copy of the working tree and runs the fast tests there. Exit
code 0 if at least 29 of 30 were caught.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("src", "depthlab")
FAULTS = Path("tests", "planted_faults.toml")
# The test of the list notices every fault, which proves nothing.
OWN_TEST = Path("tests", "test_planted_faults.py")
LEFT_OUT = {".git", ".venv", "logs", "data", "build", "dist"}
CAUGHT_AT_LEAST = 29 / 30
SECONDS_AT_MOST = 1200
SECONDS_FOR_A_TEST = 100
TESTS_FAILED = (1, 2)  # pytest's exit codes for a failing test and for a test file that cannot be imported


@dataclass(frozen=True)
class Fault:
    """What `pattern` matches inside `function` becomes `new`.

    Args:
        what: the fault, in words.
        function: the qualified name of a function or class of the package, in whichever file.
        pattern: a regular expression that matches once inside the functions of that name.
        new: what takes the place of the match.
    """

    what: str
    function: str
    pattern: str
    new: str

    def planted(self, package: Path) -> tuple[Path, str]:
        """The file that holds the function, and its content with the fault.

        Raises:
            ValueError: functions of that name hold no match, or more than one.
        """
        places = [
            (path, start + match.start(), start + match.end())
            for path in sorted(package.rglob("*.py"))
            for start, body in bodies(path, self.function)
            for match in re.finditer(self.pattern, body)
        ]
        if len(places) != 1:
            raise ValueError(f"{self.function}: {self.pattern!r} matches {len(places)} times, not once")
        path, start, end = places[0]
        text = path.read_text(encoding="utf-8")
        return path, text[:start] + self.new + text[end:]


def bodies(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Functions and classes of a qualified name in a file: where they start, in characters, and their text."""
    text = path.read_text(encoding="utf-8")
    if name.rpartition(".")[2] not in text:
        return
    starts = [0, *itertools.accumulate(len(line) for line in text.splitlines(keepends=True))]
    for qualified, node in definitions(ast.parse(text)):
        if qualified == name:
            start = starts[node.lineno - 1]
            yield start, text[start : starts[node.end_lineno or 0]]


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Every function and class inside a node, with its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield f"{prefix}{child.name}", child
            yield from definitions(child, f"{prefix}{child.name}.")
        else:
            yield from definitions(child, prefix)


def nearest_tests(path: Path, package: Path) -> str:
    """The tests of the room that a file lies in."""
    room = path.relative_to(package).parts[0]
    return f"tests/{room.removesuffix('.py')}"


@dataclass(frozen=True)
class Verdict:
    """The first test that failed with the fault in place; None if all passed."""

    failed: str | None
    seconds: float


def read_faults() -> list[Fault]:
    """The list, in its order."""
    with (ROOT / FAULTS).open("rb") as file:
        return [Fault(**entry) for entry in tomllib.load(file)["fault"]]


def copy_tree(target: Path) -> None:
    """Copy the working tree without what was built, downloaded or logged."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        built = {name for name in names if name.endswith((".egg-info", "_cache", "__pycache__"))}
        return built | (LEFT_OUT & set(names) if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, target, ignore=left_out)
    (target / OWN_TEST).unlink(missing_ok=True)


def first_failure(tree: Path, tests: Sequence[str]) -> str | None:
    """The first fast test that fails in a copy of the project; None if none does."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    if data_dir := os.environ.get("DEPTHLAB_DATA_DIR"):
        environment["DEPTHLAB_DATA_DIR"] = str((ROOT / data_dir).resolve())
    options = ("-m", "not slow", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no", "--durations=0", "-rfE")
    limit = f"--timeout={SECONDS_FOR_A_TEST}"  # some faults make a run endless
    command = [sys.executable, "-m", "pytest", *options, limit, *tests]
    try:
        completed = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=SECONDS_AT_MOST, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end after {SECONDS_AT_MOST} s"
    if completed.returncode == 0:
        return None
    if completed.returncode not in TESTS_FAILED:
        raise RuntimeError(f"pytest ended with {completed.returncode}:\n{completed.stdout[-2000:]}{completed.stderr}")
    failures = [line for line in completed.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failures[0].split(" ", 1)[1].split(" - ")[0] if failures else "a test file that cannot be imported"


def try_out(fault: Fault | None, tests: Sequence[str]) -> Verdict:
    """Plant `fault` (None: nothing) in a copy and run the tests there, those nearest to the fault first."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        tree = Path(folder, "tree")
        copy_tree(tree)
        failed = None
        if fault is not None:
            path, text = fault.planted(tree / PACKAGE)
            path.write_text(text, encoding="utf-8")
            nearest = nearest_tests(path, tree / PACKAGE)
            failed = first_failure(tree, [nearest]) if (tree / nearest).exists() else None
        failed = failed or first_failure(tree, tests)
    return Verdict(failed, time.monotonic() - started)


def report(faults: dict[int, Fault], judge: Callable[[Fault], Verdict], jobs: int) -> float:
    """Try the faults out, print a line each and the rate, which is returned."""
    verdicts = []
    with ThreadPoolExecutor(jobs) as pool:
        for (number, fault), verdict in zip(faults.items(), pool.map(judge, faults.values()), strict=True):
            verdicts.append(verdict)
            outcome = "caught" if verdict.failed else "MISSED"
            print(f"{number:3d}  {outcome}  {verdict.seconds:4.0f} s  {fault.what} ({fault.function})")
            print(f"{'':21}{verdict.failed or 'every test passed'}", flush=True)
    caught = sum(verdict.failed is not None for verdict in verdicts)
    print(f"caught {caught} of {len(verdicts)} planted faults ({100 * caught / len(verdicts):.0f} %)")
    return caught / len(verdicts)


def main() -> int:
    """Try out the faults that were asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="the numbers of the faults to try, from 1")
    parser.add_argument("--jobs", type=int, default=1, metavar="K", help="faults tried at a time (default 1)")
    parser.add_argument(
        "--tests",
        nargs="+",
        default=["tests"],
        metavar="PATH",
        help="what pytest runs after the tests nearest to a fault",
    )
    arguments = parser.parse_args()
    numbered = dict(enumerate(read_faults(), start=1))
    wanted = arguments.only or list(numbered)
    if unknown := sorted(set(wanted) - set(numbered)):
        print(f"error: --only {unknown[0]}: the faults are numbered 1 to {len(numbered)}.", file=sys.stderr)
        return 2
    if failed := try_out(None, arguments.tests).failed:
        print(f"error: {failed} fails without any fault; repair it first.", file=sys.stderr)
        return 2
    faults = {number: numbered[number] for number in wanted}
    rate = report(faults, lambda fault: try_out(fault, arguments.tests), arguments.jobs)
    return 0 if rate >= CAUGHT_AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
