"""Text that others wrote, made harmless for a terminal, Markdown, CSV and LaTeX; counts in words; strict JSON.

Names of classes, runs and devices come from files of strangers. The writers of each kind of output call these
functions on everything that they write, so that no caller can forget it. HTML has `html.escape` besides.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

LONGEST_LINE = 5000
LONGEST_CELL = 1000
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# A number with what may stand around it, such as "-0.12 ± 0.16" or "+3 %": no formula of a spreadsheet.
NUMERIC = re.compile(r"[\d\s.,;:±%()eE+-]*")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
# What begins a link, an image or a reference; HTML; what GitHub turns into a link by itself.
MARKDOWN = (
    (re.compile(r"\](?=[(\[:])"), r"]\\"),
    (re.compile(r"<(?=[A-Za-z/!?])"), "&lt;"),
    (re.compile(r"(?<=[A-Za-z]):(?=//)"), "&#58;"),
    (re.compile(r"\b(www)\.", re.IGNORECASE), r"\1&#46;"),
)
BLOCK = re.compile(r"^\s*(?=#|>|```|~~~|={3}|-{3}|[-+*]\s|\d+[.)]\s)")
# Characters that LaTeX would take for commands, and the few beyond ASCII that tables use.
LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "[": "{[}",  # behind the end of a row it would be taken for an argument of that
        "]": "{]}",
        "±": r"$\pm$",
        "≈": r"$\approx$",
        "≤": r"$\leq$",
        "→": r"$\to$",
    }
)


def one_line(text: str, most: int = LONGEST_LINE) -> str:
    """At most `most` characters of a text, without line breaks, escape sequences, surrogates and control characters.

    A character that cannot be shown becomes one that says so; line breaks and tabs become spaces.
    """
    if len(text) > most:
        text = f"{text[: most - 3]}..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else REPLACEMENT for char in text)


def lines(text: str) -> str:
    """As `one_line`, line by line."""
    return "\n".join(map(one_line, text.split("\n")))


def for_markdown(text: str) -> str:
    """One line in which nothing becomes a heading, a link, an image or HTML."""
    text = one_line(text)
    for pattern, harmless in MARKDOWN:
        text = pattern.sub(harmless, text)
    return text


def for_markdown_cell(text: str) -> str:
    """The same for a cell of a table."""
    return for_markdown(one_line(text, LONGEST_CELL)).replace("\\|", "\\&#124;").replace("|", "\\|")


def for_markdown_line(text: str) -> str:
    """The same for a paragraph or an item of a list, which may not begin a block of another kind."""
    text = for_markdown(text)
    found = BLOCK.match(text)
    return f"{found[0]}\\{text[found.end() :]}" if found else text


def fenced(text: str) -> list[str]:
    """Lines of code in Markdown, in a fence that is longer than any in the text."""
    ticks = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text) or [""]))
    return [ticks, lines(text), ticks]


def for_csv(text: str) -> str:
    """A cell that a spreadsheet does not take for a formula: an apostrophe in front where it would."""
    text = text if text.startswith(FORMULA) else one_line(text)
    is_formula = text.startswith(FORMULA) and NUMERIC.fullmatch(text) is None
    return one_line(f"'{text}" if is_formula else text)


def for_latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return one_line(text, LONGEST_CELL).translate(LATEX)


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def as_json(value: Any) -> str:
    """Strict JSON, which knows no infinity: a number that is not finite is null."""
    return json.dumps(_finite(value), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
