"""What a command prints: its result on standard output; errors, log messages and progress on standard error.

Whatever goes to standard error passes through `print_stderr` or the log, which remove the secrets in URLs.

Rich is imported only where something is drawn, so that an invalid option is reported without this delay.
"""

import logging
import shutil
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from jobs.console import exit_codes
from jobs.console.streams import Drawn, SafeStream, safe_streams
from jobs.console.terminal import above_step
from mnist_lib.wording import printable, without_secrets

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from jobs.console.drawing import SafeConsole

log = logging.getLogger(__name__)

PIPE_WIDTH = 120  # characters in a line of a table in a pipe, unless COLUMNS is set or the words need more
UNLIMITED = 100_000  # characters in a line

# Lines around the result in the log of a submitted job, which contains both stdout and stderr.
RESULT_BEGINS, RESULT_ENDS = "--- result ---\n", "\n--- end of result ---"


@dataclass(frozen=True)
class CommandResult:
    """The result of a command.

    Args:
        document: the result as JSON values, for --json.
        lines: the result for people; a line may also be a table.
        afterwards: work to do once the result is printed.
    """

    document: Any
    lines: Sequence[str]
    exit_code: int = exit_codes.DONE
    afterwards: Callable[[], None] | None = None


def run_command(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command and return its exit code, or 74 if its output was lost.

    An error prints one line, and a traceback if it is a bug or with -v.
    """
    with safe_streams() as stdout:
        try:
            exit_code = _exit_code(command, arguments)
        except SystemExit:  # after --help and --version
            if _is_lost(stdout):
                return exit_codes.OUTPUT
            raise
        return exit_codes.OUTPUT if _is_lost(stdout) else exit_code


def _exit_code(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    try:
        return command(arguments)
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
        print_stderr(f"error[{code}] {' '.join(message.split())}")
        return exit_codes.exit_code_of(str(code))


def _is_lost(stdout: SafeStream) -> bool:
    """Return whether output was lost, and print an error if so. A pipe that its reader has closed does not count."""
    error = stdout.finish()
    if error is None or isinstance(error, BrokenPipeError):
        return False
    print_stderr(
        f"error[E-OUTPUT] standard output cannot be written ({error.strerror}); send the output to another place"
    )
    return True


def print_stderr(text: str, end: str = "\n") -> None:
    """Print on standard error, without secrets."""
    with above_step():
        print(without_secrets(text), end=end, file=sys.stderr, flush=True)


def print_result(text: str) -> None:
    """Print on standard output. A write error does not stop the command, but decides its exit code at the end."""
    for part in (text, "\n"):
        sys.stdout.write(part)
    sys.stdout.flush()


def as_text(*renderables: "RenderableType") -> str:
    """Draw tables and lines of text for standard output, with colours if it is a terminal, and without trailing spaces.

    On a terminal, lines break between words; a cell of a `grid` that is still too wide is cut or folded. In a pipe, no
    word is cut, and lines break only in grids. With `no_wrap=True, overflow="ignore"`, a path in a `Text` is not cut.
    """
    return Drawn("\n".join(map(_drawn, renderables)).rstrip())


def _drawn(renderable: "RenderableType") -> str:
    if isinstance(renderable, Drawn):
        return renderable
    if isinstance(renderable, str):
        line = printable(renderable)
        if not sys.stdout.isatty() or len(line) <= _max_width():
            return line.rstrip()
        return textwrap.fill(line, _max_width(), break_long_words=False, break_on_hyphens=False)
    from rich.table import Table

    console = _stdout()
    if isinstance(renderable, Table):
        _fit(renderable, console)
    with console.capture() as capture:
        console.print(renderable, crop=False)
    return "\n".join(line.rstrip() for line in capture.get().removesuffix("\n").split("\n"))


def has_colors() -> bool:
    """Return whether `as_text` draws in colours."""
    console = _stdout()
    return console.color_system is not None and not console.no_color


def _stdout() -> "SafeConsole":
    from jobs.console.drawing import SafeConsole

    is_terminal = sys.stdout.isatty()
    return SafeConsole(width=None if is_terminal else UNLIMITED, force_terminal=is_terminal)


def grid(
    headings: Sequence[str],
    rows: Iterable[Sequence["str | Text"]],
    fold: Collection[str] = (),
    one_line: Collection[str] = (),
) -> "Table":
    """Return a table without borders. Control characters in its strings are escaped.

    Args:
        fold: headings of the columns in which a word that is too long is folded, not cut.
        one_line: headings of the columns whose cells, such as paths, are not wrapped in a pipe.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for heading in headings:
        no_wrap = heading in one_line and not sys.stdout.isatty()
        table.add_column(heading, overflow="fold" if heading in fold else "ellipsis", no_wrap=no_wrap)
    for row in rows:
        table.add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], fold: Collection[str] = (), one_line: Collection[str] = ()
) -> str:
    """Return a table as text, in the width of standard output; see `grid`."""
    from rich.cells import cell_len

    lines = [[*map(printable, line)] for line in (headings, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) > _max_width():
        return as_text(grid(lines[0], lines[1:], fold, one_line))
    # Nothing has to be cut or wrapped: Rich would take seconds for ten thousand rows.
    padded = (
        [cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return Drawn("\n".join("  ".join(line).rstrip() for line in padded))


def _max_width() -> int:
    """Return the maximum width of a table: COLUMNS if it is set, else that of the terminal, or PIPE_WIDTH in a pipe."""
    return shutil.get_terminal_size((PIPE_WIDTH, 0)).columns


def _fit(table: "Table", console: "SafeConsole") -> None:
    """Set the widths of the columns. If a table is too wide, narrow the widest column first, and cut words last."""
    from rich.measure import Measurement

    options = console.options.update(max_width=UNLIMITED)
    columns = [[Measurement.get(console, options, cell) for cell in (c.header, *c.cells)] for c in table.columns]
    widths = [max(cell.maximum for cell in column) for column in columns]
    words = [max(cell.minimum for cell in column) for column in columns]
    words = [width if c.no_wrap else word for c, width, word in zip(table.columns, widths, words, strict=True)]
    for _ in range(Measurement.get(console, options, table).maximum - _max_width()):
        widest = max(range(len(widths)), key=lambda n: (widths[n] > words[n], widths[n]))
        if console.is_terminal or widths[widest] > words[widest]:
            widths[widest] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = max(1, width)


class _LineWithoutSecrets(logging.Formatter):
    """Writes a message as one line without secrets; a traceback below it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which a live table replaces to put lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        with above_step():
            super().emit(record)


def log_to_stderr(*, verbose: bool, quiet: bool = False, timestamps: bool = False) -> None:
    """Print log messages on standard error: all if verbose, only warnings and errors if quiet."""
    handler = _ToStderr()
    formatter = _LineWithoutSecrets("%(asctime)s %(message)s" if timestamps else "%(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    for logger in map(logging.getLogger, ("jobs", "mnist_lib", "cluster")):
        # In place of an earlier one: a program that calls two commands must not see every message twice.
        logger.handlers[:] = [*(other for other in logger.handlers if not isinstance(other, _ToStderr)), handler]
        logger.setLevel(level)
