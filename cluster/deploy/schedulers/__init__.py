"""Files with which other schedulers run a command. Each is made from a `Timer`: command, timetable, exit codes.

One module writes each format. It represents every value that a `Timer` can hold, or raises UnwritableError.
"""

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


class UnwritableError(Exception):
    """A value cannot be represented in a file for a scheduler."""

    code = "E-USAGE"


# Control characters and line ends of any kind, surrogates, which UTF-8 cannot encode, and the code points that Unicode
# calls noncharacters, which systemd refuses.
NO_CHARACTERS = "".join(chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
UNWRITABLE = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef{NO_CHARACTERS}]")


def require_writable(what: str, text: str) -> None:
    """Raise UnwritableError if the text contains any of the characters in `UNWRITABLE`."""
    if found := UNWRITABLE.search(text):
        raise UnwritableError(f"{what}: expected UTF-8 without control characters, got {found[0]!r} in it; change it")


@dataclass(frozen=True, kw_only=True)
class Timer:
    """A command and when to run it. Raises UnwritableError for a text that no file could hold."""

    name: str  # of the schedule
    cron: str  # five valid fields
    zone: str  # the time zone of `cron`
    command: tuple[str, ...]  # begins with the path of Python here, or with "python" in an image
    folder: Path  # the working folder of the command
    about: str  # a description for people
    final_exit_codes: Sequence[int]  # of the command; after any other failure the scheduler retries
    starting_deadline: float | None = None  # the command may start up to this many seconds after a slot
    notify: str | None = None  # MNIST_JOBS_NOTIFY of the command: not a flag, since it can hold a secret

    def __post_init__(self) -> None:
        for word in self.command:
            require_writable("command", word)
        require_writable("working folder", str(self.folder))
        require_writable("notify", self.notify or "")
        for text in (self.name, self.cron, self.zone, self.about):  # written as they are, into comments too
            if not re.fullmatch(r"[ -\[\]-~]*", text):
                raise UnwritableError(f"expected printable ASCII without backslashes, got {text!r}; change it")


def require_portable(cron: str, scheduler: str) -> None:
    """Raise SchedulerError for a timetable that only some implementations of cron understand."""
    if re.search("[L#W]", re.sub("[A-Z]{3}", "", cron.upper())):
        raise SchedulerError(f"cron: {scheduler} does not understand L, LW or #, got {cron!r}; run the daemon instead")
