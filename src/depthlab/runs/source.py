"""Source files in a normal form: comments, formatting and docstrings change nothing of a file's digest.

Digests are cached by the content of a file. So no clock and no time of a file can make an edit go unnoticed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FORM = 1  # of the normal form: digests of another one are not compared with these
MOST_CACHED = 5000  # files; a cache that grows beyond keeps those of the present run
DIGITS = 12


class Source(NamedTuple):
    """A file: its digest, and the modules that it may import. For `from a import b` both a and a.b are listed."""

    digest: str
    imports: tuple[str, ...]


class SourceCache:
    """Reads source files, and parses those that were not parsed before by any process of this user."""

    def __init__(self, path: Path | None = None) -> None:
        """The cache in the file `path`; by default in the user's folder for such files."""
        self._path = path or _cache_file()
        self._known = _read_cache(self._path)
        self._used: dict[str, Source] = {}

    def read(self, path: Path) -> Source:
        """The file's digest and imports. What is no Python that can be parsed counts by its bytes."""
        try:
            content = path.read_bytes()
        except OSError:
            return Source("unreadable", ())
        if path.suffix != ".py":
            return Source(_short(content), ())
        name = hashlib.sha256(content).hexdigest()[:32]
        if name not in self._used:
            self._used[name] = self._known.get(name) or _parse(content)
        return self._used[name]

    def save(self) -> None:
        """Keep what was parsed for later processes, if the folder can be written."""
        if self._path is None or self._used.keys() <= self._known.keys():
            return
        kept = {**self._known, **self._used} if len(self._known) < MOST_CACHED else self._used
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(kept), encoding="utf-8")
            temporary.replace(self._path)


def total(digests: Iterable[tuple[str, str]]) -> str:
    """One digest for files by name."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests))
    content = f"{FORM}\n{lines}".encode("utf-8", "surrogatepass")  # names come from records too, which hold anything
    return hashlib.sha256(content).hexdigest()[:16]


def _cache_file() -> Path | None:
    try:
        folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return Path(folder) / "depthlab" / f"source-{FORM}.json"


def _read_cache(path: Path | None) -> dict[str, Source]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): Source(str(digest), tuple(map(str, names))) for name, (digest, names) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # damaged: parse again
        return {}


def _parse(content: bytes) -> Source:
    written: list[str] = []
    try:
        tree = ast.parse(content)
        _write_normal_form(tree, written)
        return Source(_short("".join(written).encode()), tuple(sorted(set(_imports(tree)))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a template, or for another version of Python
        return Source(_short(content), ())


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _write_normal_form(node: object, written: list[str]) -> None:
    """The syntax tree as text: without positions, docstrings, and whatever versions of Python write differently."""
    if isinstance(node, ast.AST):
        written.append(f"({type(node).__name__}")
        for name in node._fields:
            value = getattr(node, name, None)
            if name == "body" and _has_docstring(node):
                value = value[1:]  # type: ignore[index]
            if value is None or value == [] or name in ("ctx", "kind", "type_comment"):
                continue
            written.append(f" {name} ")
            _write_normal_form(value, written)
        written.append(")")
    elif isinstance(node, list):
        written.append("[")
        for each in node:
            _write_normal_form(each, written)
        written.append("]")
    else:
        written.append(repr(node))


def _has_docstring(node: ast.AST) -> bool:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
        return False
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _imports(node: ast.AST) -> Iterator[str]:
    """Absolute imports anywhere in a file but those for a type checker."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)
