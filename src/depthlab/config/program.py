"""How this process was started, in the words that a person types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PACKAGE = "depthlab"


def program_words(argv: Sequence[str]) -> list[str]:
    """What stands before the arguments: depthlab, python -m depthlab, or python SCRIPT."""
    name = Path(argv[0]).name
    if name == PACKAGE:
        return [PACKAGE]
    return ["python", "-m", PACKAGE] if name == "__main__.py" else ["python", argv[0]]


def command_words(argv: Sequence[str], command: str) -> list[str]:
    """The same with the command, such as depthlab train; a script is a command by itself."""
    words = program_words(argv)
    return [*words, command] if words[-1] == PACKAGE else words
