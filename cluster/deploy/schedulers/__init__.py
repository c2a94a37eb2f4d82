"""A timetable for schedulers that others run: crontab, systemd, Kubernetes, KubeRay.

Each of them starts one command when a slot is due. What it cannot do, that command does itself, and the text says so.
"""

import re
from dataclasses import dataclass
from pathlib import Path

# Another attempt would meet the same: a bug, configuration, data, failed trials, integrity, some trials failed.
FINAL_EXIT_CODES = [1, 2, 3, 5, 7, 9]


class SchedulerError(Exception):
    """A timetable that this scheduler has no words for."""

    code = "E-CRON"


@dataclass(frozen=True, kw_only=True)
class Timer:
    """
    Args:
        name: of the schedule.
        cron: five fields, known to be possible.
        zone: the time zone of these.
        command: one argument each; Python is named by its path here, or "python" where it is an image's.
        folder: in which it runs.
        about: how it is described to people.
    """

    name: str
    cron: str
    zone: str
    command: tuple[str, ...]
    folder: Path
    about: str
    starting_deadline: float | None = None  # seconds


def require_plain(cron: str, scheduler: str) -> None:
    """Raises SchedulerError for what only some crons understand."""
    if re.search("[L#W]", re.sub("[A-Z]{3}", "", cron.upper())):
        raise SchedulerError(f"cron: {scheduler} has no L, LW or #, got {cron!r}; run the daemon instead")
