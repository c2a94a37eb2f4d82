"""The commands that people and schedulers call: arguments, output and exit codes. Only this package prints."""

from pathlib import Path

from mnist_lib.environment import steady_time

# The source code that is sent to workers; its hash is stored with each model.
SOURCE_FOLDERS = [Path(__file__).parents[1] / package for package in ("jobs", "mnist_lib", "cluster")]

MAX_IMPORT_SECONDS = 60.0  # from the start of a process to that of its command
_imported_at = steady_time()  # a few hundredths of a second after the start of the process


def begin_of_command() -> float:
    """Return the value of `steady_time()` when the process of a command started.

    If that is long ago, return the time now: then another program, such as a notebook, has called the command.
    """
    now = steady_time()
    return _imported_at if now - _imported_at < MAX_IMPORT_SECONDS else now
