"""The terminal as rich sees it, in which text of others stays text."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from depthlab.shown_text import lines

PLAIN_WIDTH = 160  # of tables where there is no terminal to measure


class TextConsole(Console):
    """Shows every text as it is: no markup, no emoji codes, no colours by content, no characters that cannot be shown.

    Names of classes, files and runs come from strangers. Here all that is printed passes, tables and bars included.
    Where no terminal has a width, tables get enough of it: rich would cut them to 80 characters in files and pipes.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})
        if not (self.is_terminal or self.is_jupyter or "width" in options or "COLUMNS" in os.environ):
            self.width = PLAIN_WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of `renderable`, printable; those that move the cursor are rich's own and stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(lines(segment.text), segment.style)
