"""What a command prints: its result on standard output; errors, log messages and progress on standard error.

A command is an `entry_point`, which returns its result as a `CommandResult`. Rich is imported only where something is
drawn, so that an invalid option is reported without this delay.
"""

import functools
import json
import logging
import shutil
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from jobs.console import exit_codes
from jobs.console.terminal import Drawn, SafeStream, safe_console, safe_streams
from mnist_lib.documents import builtins_of
from mnist_lib.wording import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

log = logging.getLogger(__name__)

UNLIMITED = 100_000  # characters in a line
GAP = 2  # spaces between the columns of a table

# Lines around the result in the log of a submitted job, which contains both stdout and stderr.
RESULT_BEGINS, RESULT_ENDS = "--- result ---\n", "\n--- end of result ---"


@dataclass(frozen=True)
class CommandResult:
    """The result of a command.

    Args:
        document: the result for --json: JSON values and dataclasses.
        lines: the result for people: lines of text, tables, and whatever else Rich draws.
        json: whether to print the document; otherwise the lines are printed.
        afterwards: work to do once the result is printed, which may raise an error.
        marked: whether to print it between RESULT_BEGINS and RESULT_ENDS.
    """

    document: Any
    lines: Sequence["RenderableType"]
    exit_code: int = exit_codes.DONE
    json: bool = False
    afterwards: Callable[[], None] | None = None
    marked: bool = False


def entry_point(command: Callable[[Sequence[str]], CommandResult | int]) -> Callable[..., int]:
    """Make a command the `main` of its module: print its result, and return its exit code.

    An error prints one line, and a traceback if it is a bug or with -v. The exit code is 74 if the output was lost.
    A command may return its exit code itself if it has printed its result, as one that runs another command.
    """

    @functools.wraps(command)
    def main(arguments: Sequence[str] | None = None) -> int:
        with safe_streams() as stdout:
            exit_code = _exit_code(command, sys.argv[1:] if arguments is None else arguments)
            return exit_codes.OUTPUT if _is_lost(stdout) else exit_code

    return main


def _exit_code(command: Callable[[Sequence[str]], CommandResult | int], arguments: Sequence[str]) -> int:
    try:
        result = command(arguments)
        if isinstance(result, int):
            return result
        if result.json or result.lines:
            text = json.dumps(builtins_of(result.document), indent=2) if result.json else as_text(*result.lines)
            print_result(f"{RESULT_BEGINS}{text}{RESULT_ENDS}" if result.marked else text)
        if result.afterwards is not None:
            result.afterwards()
        return result.exit_code
    except KeyboardInterrupt:
        print_stderr("interrupted")
        return exit_codes.INTERRUPTED
    except Exception as error:
        code = getattr(error, "code", None)
        is_known = isinstance(code, str) and code.startswith("E-")
        code = code if is_known else "E-BUG"
        message = str(error) if is_known else f"{type(error).__name__}: {error}; please report this"
        if not is_known or log.isEnabledFor(logging.DEBUG):
            print_stderr(traceback.format_exc().rstrip())
        print_error(str(code), " ".join(message.split()))
        return exit_codes.exit_code_of(str(code))


def _is_lost(stdout: SafeStream) -> bool:
    """Return whether output was lost, and print an error if so. A pipe that its reader has closed does not count."""
    error = stdout.finish()
    if error is None or isinstance(error, BrokenPipeError):
        return False
    reason = f"standard output cannot be written ({error.strerror}); send the output to another place"
    print_error("E-OUTPUT", reason)
    return True


def print_stderr(text: str, end: str = "\n") -> None:
    """Print on standard error, in one call, so that the current step is not drawn within the line."""
    sys.stderr.write(f"{text}{end}")
    sys.stderr.flush()


def print_error(code: str, message: str) -> None:
    """Print an error as one line on standard error."""
    print_stderr(printable(f"error[{code}] {message}"))


def print_result(text: str) -> None:
    """Print on standard output. A write error does not stop the command, but decides its exit code at the end."""
    sys.stdout.write(text)
    sys.stdout.write("\n")
    sys.stdout.flush()


def as_text(*lines: "RenderableType") -> str:
    """Draw lines of text and tables for standard output, with colours if it is a terminal, without trailing spaces.

    On a terminal, lines break between words; in a pipe, nowhere. With `no_wrap=True, overflow="ignore"`, a path in a
    `Text` of Rich is not cut.
    """
    return Drawn("\n".join(map(_drawn, lines)).rstrip(" \n"))  # a line of CSV ends with \r


def _drawn(line: "RenderableType") -> str:
    if isinstance(line, Drawn):
        return line
    if isinstance(line, str):
        text = printable(line)
        if len(text) <= _max_width():
            return text.rstrip()
        return textwrap.fill(text, _max_width(), break_long_words=False, break_on_hyphens=False)
    console = _stdout()
    with console.capture() as capture:
        console.print(line, crop=False)
    return "\n".join(part.rstrip() for part in capture.get().removesuffix("\n").split("\n"))


def _stdout() -> "Console":
    return safe_console(width=_max_width(), force_terminal=sys.stdout.isatty())


def table(headings: Sequence[str], rows: Iterable[Sequence["str | Text"]], fold: Collection[str] = ()) -> str:
    """Return a table without borders as text.

    On a terminal, cells are wrapped between words; a word that is still too wide is cut or folded. In a pipe, each row
    is one line.

    Args:
        fold: headings of the columns in which a word that is too long is folded, not cut.
    """
    from rich.cells import cell_len

    lines = [[printable(cell) if isinstance(cell, str) else cell for cell in line] for line in (headings, *rows)]
    widths = [max(cell_len(str(cell)) for cell in column) for column in zip(*lines, strict=True)]
    too_wide = sum(widths) + GAP * (len(widths) - 1) > _max_width()
    if too_wide or not all(isinstance(cell, str) for line in lines for cell in line):
        return _wrapped_table(lines, fold)
    # Nothing has to be cut or wrapped: Rich would take seconds for ten thousand rows.
    padded = (
        [f"{cell}{' ' * (width - cell_len(str(cell)))}" for cell, width in zip(line, widths, strict=True)]
        for line in lines
    )
    return Drawn("\n".join((" " * GAP).join(line).rstrip() for line in padded))


def _wrapped_table(lines: Sequence[Sequence["str | Text"]], fold: Collection[str]) -> str:
    """Return a table whose cells are wrapped or styled. The widest column is narrowed first, and words are cut last."""
    from rich.measure import Measurement
    from rich.table import Table

    console = _stdout()
    options = console.options.update(max_width=UNLIMITED)
    columns = [*zip(*lines, strict=True)]
    sizes = [[Measurement.get(console, options, cell) for cell in column] for column in columns]
    widths = [max(size.maximum for size in column) for column in sizes]
    words = [max(size.minimum for size in column) for column in sizes]
    for _ in range(sum(widths) + GAP * (len(widths) - 1) - _max_width()):
        widest = max(range(len(widths)), key=lambda n: (widths[n] > words[n], widths[n]))
        widths[widest] -= 1
    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="")
    for heading, width in zip(lines[0], widths, strict=True):
        overflow: Literal["fold", "ellipsis"] = "fold" if heading in fold else "ellipsis"
        drawn.add_column(heading, overflow=overflow, width=max(1, width))
    for line in lines[1:]:
        drawn.add_row(*line)
    return as_text(drawn)


def _max_width() -> int:
    """Return the maximum width of a line: that of the terminal, or no limit in a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED


class _OneLine(logging.Formatter):
    """Writes a message as one line; a traceback below it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which a live table replaces to put lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def log_to_stderr(*, verbose: bool, quiet: bool = False, timestamps: bool = False) -> None:
    """Print log messages on standard error: all if verbose, only warnings and errors if quiet."""
    handler = _ToStderr()
    formatter = _OneLine("%(asctime)s %(message)s" if timestamps else "%(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    for logger in map(logging.getLogger, ("jobs", "mnist_lib", "cluster")):
        # In place of an earlier one: a program that calls two commands must not see every message twice.
        logger.handlers[:] = [*(other for other in logger.handlers if not isinstance(other, _ToStderr)), handler]
        logger.setLevel(level)
