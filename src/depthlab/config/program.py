"""How this process was started, in the words that a person types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from depthlab.config.nearest import nearest
from depthlab.errors import InputError

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


def key_values(arguments: Sequence[str], options: Sequence[str], required: Sequence[str]) -> dict[str, str]:
    """Arguments of the form key=value. --json becomes the key json.

    Raises:
        InputError: a key is not among `options`, or one of `required` is missing.
    """
    found = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if argument == "--json":
            key, separator = "json", "="
        if not separator or key not in (*options, "json"):
            hint = (
                nearest(key, options) if separator else f"The options are {', '.join(f'{key}=...' for key in options)}."
            )
            raise InputError(f"{argument}: no such option. {hint}")
        found[key] = value
    missing = [key for key in required if not found.get(key)]
    if missing:
        raise InputError(f"{missing[0]}=... is missing. --help says more.")
    return found
