"""Standard output and standard error of a command: their text is made printable, and a failed write is remembered.

A command runs in `safe_streams`, so that this holds for whatever writes to `sys.stdout` or `sys.stderr`: results, log
messages, tracebacks, warnings, and what a user's model prints.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, cast

from mnist_lib.wording import printable


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

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

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


class Drawing(SafeStream):
    """The stream of a console of Rich, which writes cursor movements and colours."""

    def write(self, text: str) -> int:
        return super().write(Drawn(text))


@contextlib.contextmanager
def safe_streams() -> Iterator[SafeStream]:
    """Make `sys.stdout` and `sys.stderr` safe until the block ends, and yield standard output."""
    before = sys.stdout, sys.stderr
    stdout, stderr = _safe(sys.stdout, 1), _safe(sys.stderr, 2)
    sys.stdout, sys.stderr = cast(TextIO, stdout), cast(TextIO, stderr)
    try:
        yield stdout
    finally:
        stdout.finish()
        stderr.finish()
        sys.stdout, sys.stderr = before


def _safe(stream: TextIO | SafeStream | None, descriptor: int) -> SafeStream:
    if isinstance(stream, SafeStream):  # this command is run by another one
        return stream
    if stream is None:  # It is closed: the next file to be opened would get its descriptor, and then the output.
        while (unwritable := os.open(os.devnull, os.O_RDONLY)) < descriptor:
            pass
        os.set_inheritable(unwritable, True)
        stream = os.fdopen(unwritable, "w", closefd=False)
    return SafeStream(stream)
