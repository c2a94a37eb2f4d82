"""Standard output and standard error of a command, and what a terminal shows: the current step, and live tables.

Text is escaped here, where it leaves: a command runs in `safe_streams`, so that this holds for whatever writes to
`sys.stdout` or `sys.stderr`, also log messages, tracebacks, warnings and what a user's model prints. Rich, which writes
cursor movements and colours, draws with a `safe_console`. Rich is imported late: it would delay the first output.
"""

import contextlib
import io
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, cast

from mnist_lib.wording import Progress, printable, without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME_SECONDS = 0.1
BAR_WIDTH = 24  # characters
ERASE_LINE = "\r\x1b[2K"

_lock = threading.RLock()
_steps: "list[_Step]" = []  # nested steps; the last one is shown


class Drawn(str):
    """Text that is printed as it is: it is printable, except for colours of Rich or line ends of CSV."""

    __slots__ = ()


class SafeStream:
    """A text stream that escapes control characters and does not raise write errors. The first one is in `error`."""

    def __init__(self, stream: TextIO) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # escapes letters that the terminal cannot show
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text if isinstance(text, Drawn) else printable(text, keep="\n\t")))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.error = self.error or error

    def finish(self) -> OSError | None:
        """Flush, and return the first error since the last call.

        Text that cannot be written is dropped. Otherwise Python would try again at exit, and fail with its own code.
        """
        try:
            self._stream.flush()
        except OSError as error:
            self.error = self.error or error
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        first, self.error = self.error, None
        return first


class _SafeStderr(SafeStream):
    """Standard error, without the secrets in URLs. The current step is erased, and is drawn again below the text."""

    def write(self, text: str) -> int:
        if isinstance(text, Drawn):
            return super().write(text)
        with _lock:
            if _steps:
                _steps[-1].write("")
            return super().write(without_secrets(text))


@contextlib.contextmanager
def safe_streams() -> Iterator[SafeStream]:
    """Make `sys.stdout` and `sys.stderr` safe until the block ends, and yield standard output."""
    before = sys.stdout, sys.stderr
    # A command that another one runs has its streams.
    stdout = sys.stdout if isinstance(sys.stdout, SafeStream) else SafeStream(sys.stdout)
    stderr = sys.stderr if isinstance(sys.stderr, SafeStream) else _SafeStderr(sys.stderr)
    sys.stdout = cast(TextIO, stdout)
    sys.stderr = cast(TextIO, stderr)
    try:
        yield stdout
    finally:
        stdout.finish()
        stderr.finish()
        sys.stdout, sys.stderr = before


class _Step(threading.Thread):
    def __init__(self, text: str) -> None:
        super().__init__(daemon=True)
        self._text = text
        self._begin = time.monotonic()
        self._ended = threading.Event()
        self._progress = ""
        self._file = os.dup(sys.stderr.fileno())  # a copy, since importing TensorFlow redirects standard error
        self._frames = itertools.cycle(FRAMES)

    def run(self) -> None:
        while not self._ended.wait(FRAME_SECONDS):
            self.draw()

    def draw(self) -> None:
        with _lock:
            if _steps and _steps[-1] is self:
                seconds = time.monotonic() - self._begin
                time_so_far = f" ({seconds:.0f} s)" if seconds > 2 else ""
                self.write(f"{next(self._frames)} {self._text}", f"{self._progress}{time_so_far}")

    def show(self, progress: str) -> None:
        self._progress = f": {progress}"
        if isinstance(progress, Progress):
            done = round(progress.share * BAR_WIDTH)
            self._progress = f": {'━' * done}{'─' * (BAR_WIDTH - done)} {progress}"

    def write(self, text: str, rest: str = "") -> None:
        """Replace the line, which is cut at the end of `text` if it is too long."""
        text = printable(text)
        rest = printable(rest)
        with contextlib.suppress(OSError):
            columns = os.get_terminal_size(self._file).columns  # 0 if it is not known
            if columns and len(text + rest) >= columns:
                text = f"{text[: max(0, columns - len(rest) - 4)]}..."
            os.write(self._file, f"{ERASE_LINE}{text}{rest}".encode())

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
    if not (shown and is_capable()):
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


def terminal() -> "Console | None":
    """Return a console on standard error, or None if that is not a terminal or cannot move its cursor.

    Write errors are ignored. The cursor stays visible, because a process that is killed could not show it again.
    """
    if not is_capable():
        return None
    console = safe_console(file=cast(TextIO, _Drawing(sys.stderr)))
    console.show_cursor = lambda show=True: False  # type: ignore[method-assign]
    return console


def is_capable() -> bool:
    """Return whether standard error is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


class _Drawing(SafeStream):
    """The stream of a console of Rich, which escapes text itself."""

    def write(self, text: str) -> int:
        return super().write(Drawn(text))


def safe_console(**options: Any) -> "Console":
    """Return a console of Rich in which no `str` has control characters, markup or emoji codes."""
    from rich.console import Console

    class SafeConsole(Console):
        def render_str(self, text: str, **options: Any) -> "Text":
            return super().render_str(printable(text, keep="\n"), **options)  # before it is measured

    return SafeConsole(markup=False, emoji=False, highlight=False, **options)
