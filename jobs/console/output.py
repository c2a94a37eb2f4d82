"""What a command prints: its result on standard output, errors of one line and everything else on standard error."""

import contextlib
import io
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from jobs.console import exit_codes

log = logging.getLogger(__name__)

# In the log of a submitted job, which has stdout and stderr in one.
RESULT_BEGINS, RESULT_ENDS = "--- result ---\n", "\n--- end of result ---"


@dataclass(frozen=True)
class CommandResult:
    """For programs, for people, and for whoever started it."""

    document: Any  # of JSON
    text: str
    exit_code: int = exit_codes.DONE
    afterwards: Callable[[], None] | None = None  # what need not be waited for


def run_command(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Runs a command to its exit code. A failure that has a code is one line; a bug, or -v, adds the traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no failure
    try:
        return command(arguments)
    except KeyboardInterrupt:
        print_stderr("interrupted")
        return exit_codes.INTERRUPTED
    except Exception as error:
        code = getattr(error, "code", None)
        told = isinstance(code, str) and code.startswith("E-")
        code = code if told else "E-BUG"
        message = str(error) if told else f"{type(error).__name__}: {error}; please report this"
        if not told or log.isEnabledFor(logging.DEBUG):
            print_stderr(traceback.format_exc().rstrip())
        print_stderr(f"error[{code}] {' '.join(message.split())}")
        return exit_codes.exit_code_of(str(code))


def printable(text: str, keep: str = "\n") -> str:
    """What is stored, or the name of a file, may hold codes that a terminal would obey."""
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def print_stderr(text: str, end: str = "\n") -> None:
    """On standard error. That nobody reads it changes nothing."""
    with contextlib.suppress(OSError):
        print(text, end=end, file=sys.stderr, flush=True)


def print_result(text: str) -> None:
    """On standard output. That nobody reads it changes nothing: what was done is done, and its exit code stands."""
    try:
        print(text, flush=True)
    except OSError:  # a closed pipe, a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails once more at its end


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


class _ToStderr(logging.StreamHandler[TextIO]):
    """To what `sys.stderr` is at that moment: a live table puts lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def to_stderr(*, verbose: bool, quiet: bool = False, stamped: bool = False) -> None:
    """`quiet`: warnings only. `stamped`: with the time, for what goes on over days."""
    handler = _ToStderr()
    formatter = logging.Formatter("%(asctime)s %(message)s" if stamped else "%(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    for package in ("jobs", "mnist_lib", "cluster"):
        logging.getLogger(package).addHandler(handler)
        logging.getLogger(package).setLevel(level)
