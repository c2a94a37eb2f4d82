"""Standard error as a terminal: the current step with a spinner, and the console of live tables.

Errors of writing to the terminal are ignored. The cursor stays visible, because a process that is killed could not show
it again. Rich is imported late, since its import would delay the first output.
"""

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO, cast

from jobs.console.streams import Drawing
from mnist_lib.wording import printable

if TYPE_CHECKING:
    from rich.console import Console

FRAMES, ASCII_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
FRAME_SECONDS = 0.1
ERASE_LINE = "\r\x1b[2K"

_lock = threading.RLock()
_steps: "list[_Step]" = []  # nested steps; the last one is shown


class _Step(threading.Thread):
    def __init__(self, text: str) -> None:
        super().__init__(daemon=True)
        self._text, self._begin, self._ended = text, time.monotonic(), threading.Event()
        self._progress = ""
        self._file = os.dup(sys.stderr.fileno())  # a copy, since importing TensorFlow redirects standard error
        self._frames = itertools.cycle(FRAMES if sys.stderr.encoding.lower() == "utf-8" else ASCII_FRAMES)

    def run(self) -> None:
        while not self._ended.wait(FRAME_SECONDS):
            self.draw()

    def draw(self) -> None:
        with _lock:
            if _steps and _steps[-1] is self:
                seconds = time.monotonic() - self._begin
                time_so_far = f" ({seconds:.0f} s)" if seconds > 2 else ""
                self.write(f"{next(self._frames)} {self._text}{self._progress}{time_so_far}")

    def show(self, progress: str) -> None:
        self._progress = f": {progress}"

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._file, f"{ERASE_LINE}{printable(text)}".encode())

    def end(self) -> None:
        self._ended.set()
        self.join()
        self.write("")
        os.close(self._file)


@contextlib.contextmanager
def step(text: str, *, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """Show a step, such as "starting Ray", beside a spinner until the block ends; do nothing without a terminal.

    Yields:
        a function that shows how far the step is, such as "12 of 100 pictures".
    """
    if not (shown and _is_capable()):
        yield lambda progress: None
        return
    current = _Step(text)
    _steps.append(current)
    current.draw()
    current.start()
    try:
        yield current.show
    finally:
        _steps.remove(current)
        current.end()


@contextlib.contextmanager
def above_step() -> Iterator[None]:
    """Erase the current step while the block writes lines; it is drawn again below them."""
    with _lock:
        if _steps:
            _steps[-1].write("")
        yield


def terminal() -> "Console | None":
    """Return a console on standard error, or None if that is not a terminal or cannot move its cursor."""
    if not _is_capable():
        return None
    from jobs.console.drawing import SafeConsole

    console = SafeConsole(file=cast(TextIO, Drawing(sys.stderr)))
    console.show_cursor = lambda show=True: False  # type: ignore[method-assign]  # the cursor stays visible
    return console


def _is_capable() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
