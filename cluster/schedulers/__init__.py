"""A timetable for schedulers that others run: crontab, systemd, Kubernetes, KubeRay.

Each of them starts one command when a slot is due. What it cannot do, that command does itself, and the text says so.
"""

from dataclasses import dataclass
from pathlib import Path


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
    jitter: float = 0.0  # seconds
    starting_deadline: float | None = None  # seconds
