"""Files with which other schedulers run a command. Each is made from a `Timer`: command, timetable, exit codes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# For every emitted file.
COMMENT = """\
# The command itself finds missed slots and unfinished runs by reading the schedule's journal in the storage. It holds
# the schedule's lease, so that one process works at a time and no slot is run twice.
"""


class SchedulerError(Exception):
    """A scheduler cannot express a timetable."""

    code = "E-CRON"


@dataclass(frozen=True, kw_only=True)
class Timer:
    name: str  # of the schedule
    cron: str  # five valid fields
    zone: str  # the time zone of `cron`
    command: tuple[str, ...]  # begins with the path of Python here, or with "python" in an image
    folder: Path  # the working folder of the command
    about: str  # a description for people
    final_exit_codes: Sequence[int]  # of the command; after any other failure the scheduler retries
    starting_deadline: float | None = None  # the command may start up to this many seconds after a slot


def require_portable(cron: str, scheduler: str) -> None:
    """Raise SchedulerError for a timetable that only some implementations of cron understand."""
    if re.search("[L#W]", re.sub("[A-Z]{3}", "", cron.upper())):
        raise SchedulerError(f"cron: {scheduler} does not understand L, LW or #, got {cron!r}; run the daemon instead")
