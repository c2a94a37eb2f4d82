"""Standard error as a console that moves its cursor, and that may be lost: whoever works goes on when nobody looks."""

import contextlib
import io
import sys
from typing import TextIO, cast

from rich.console import Console


class _Survivor(io.TextIOBase):
    """What cannot be written is left out: a terminal that was closed, or is full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._fileno = stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._fileno

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _Console(Console):
    def show_cursor(self, show: bool = True) -> bool:
        """It stays: whoever is killed cannot bring it back."""
        return False


def terminal() -> Console | None:
    """None where standard error is no terminal, or one that cannot move its cursor."""
    if not sys.stderr.isatty():
        return None
    console = _Console(file=cast(TextIO, _Survivor(sys.stderr)))
    return None if console.is_dumb_terminal else console
