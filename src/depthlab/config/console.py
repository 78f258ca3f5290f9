"""The terminal as rich sees it, in which text of others stays text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from depthlab.shown_text import lines


class TextConsole(Console):
    """Shows every text as it is: no markup, no emoji codes, no colours by content, no characters that cannot be shown.

    Names of classes, files and runs come from strangers. Here all that is printed passes, tables and bars included.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of `renderable`, printable; those that move the cursor are rich's own and stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(lines(segment.text), segment.style)
