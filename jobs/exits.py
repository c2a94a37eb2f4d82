"""How a command ends: the one table of exit codes, and the one place where exceptions become a line and a code."""

import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

# By how the error code begins: E-DATA-MISSING is E-DATA.
EXIT_CODES = {
    "E-BUG": 1,
    "E-USAGE": 2,
    "E-CRON": 2,
    "E-IMAGE": 2,
    "E-DATA": 3,
    "E-RESOURCES": 4,
    "E-TRAINING": 5,
    # What a trial can end with: this is the code of a run whose every trial has.
    "E-CRASH": 5,
    "E-GPU-INVISIBLE": 5,
    "E-NAN": 5,
    "E-NODE-LOST": 5,
    "E-OOM": 5,
    "E-SILENT": 5,
    "E-TIMEOUT": 5,
    "E-STORE": 6,
    "E-INTEGRITY": 7,
    "E-SCHEMA": 7,
    "E-AUTH": 8,
    "E-CLUSTER": 8,
    "E-BUSY": 75,
}
# In the log of a submitted job, which has stdout and stderr in one.
RESULT_BEGINS, RESULT_ENDS = "--- result ---\n", "\n--- end of result ---"
DONE = 0
INTEGRITY = EXIT_CODES["E-INTEGRITY"]
SOME_FAILED = 9  # trials, or pictures; the others are stored, or predicted
INTERRUPTED = 130


class UsageError(Exception):
    """The command line or the configuration cannot be understood."""

    code = "E-USAGE"


class TrainingError(Exception):
    """Every trial failed.

    Args:
        code: that of all of them, where they agree.
    """

    def __init__(self, message: str, code: str = "E-TRAINING") -> None:
        super().__init__(message)
        self.code = code


def exit_code_of(code: str) -> int:
    return next((EXIT_CODES[known] for known in sorted(EXIT_CODES, reverse=True) if code.startswith(known)), 1)


def run(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Runs a command to its exit code. A failure that has a code is one line; a bug, or -v, adds the traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no failure
    try:
        return command(arguments)
    except KeyboardInterrupt:
        tell("interrupted")
        return INTERRUPTED
    except Exception as error:
        code = getattr(error, "code", None)
        told = isinstance(code, str) and code.startswith("E-")
        code = code if told else "E-BUG"
        message = str(error) if told else f"{type(error).__name__}: {error}; please report this"
        if not told or log.isEnabledFor(logging.DEBUG):
            tell(traceback.format_exc().rstrip())
        tell(f"error[{code}] {' '.join(message.split())}")
        return exit_code_of(str(code))


def printable(text: str, keep: str = "\n") -> str:
    """What is stored, or the name of a file, may hold codes that a terminal would obey."""
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def tell(text: str, end: str = "\n") -> None:
    """On standard error. That nobody reads it changes nothing."""
    with contextlib.suppress(OSError):
        print(text, end=end, file=sys.stderr, flush=True)


def print_result(text: str) -> None:
    """On standard output. That nobody reads it changes nothing: what was done is done, and its exit code stands."""
    try:
        print(text, flush=True)
    except OSError:  # a closed pipe, a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails once more at its end
