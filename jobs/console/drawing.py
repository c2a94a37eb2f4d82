"""The console with which Rich draws tables and progress. Rich is imported here, so import this module late."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from mnist_lib.wording import printable


class SafeConsole(Console):
    """A console in which no text has control characters, markup or emoji codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, keep="\n"), **options)  # before it is measured

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:  # cursor movements of Rich itself
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)
