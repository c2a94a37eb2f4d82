"""A schedule for systemd: a service and its timer, as units of a user or of the system."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from cronsim import CronSim

from cluster.deploy.schedulers import COMMENT, SchedulerError, Timer, UnwritableError

DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


def units(timer: Timer) -> dict[str, str]:
    """Return the text of each unit, and of the file with its variables if there is one, by file name.

    Raises SchedulerError for the n-th or last weekday of a month, UnwritableError for a path of Python with "$".
    """
    name = f"mnist-jobs-{timer.name}"
    made = {f"{name}.service": _service(timer), f"{name}.timer": _timer(timer, on_calendar(timer.cron, timer.zone))}
    return made if timer.notify is None else {**made, f"{timer.name}.env": _variables(timer.notify)}


def on_calendar(cron: str, zone: str) -> list[str]:
    """Return expressions that together elapse when cron is due, except at changes of the clock."""
    times = CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
    weekdays = [day for day in times.weekdays if isinstance(day, int)]
    if len(weekdays) < len(times.weekdays) or CronSim.LAST_WEEKDAY in times.days:
        raise SchedulerError(f"cron: systemd has no n-th or last weekday, got {cron!r}; run the daemon instead")
    days_of_week = ",".join(DAYS[day] for day in sorted({day % 7 for day in weekdays}))
    clock = f"{_list(times.hours, 24)}:{_list(times.minutes, 60)}:00 {zone}"
    months = _list(times.months, 12)
    dates = [f"*-{months}-{_list((day for day in times.days if day > 0), 31)}"] if max(times.days) > 0 else []
    if CronSim.LAST in times.days:
        dates.append(f"*-{months}~01")
    every_weekday = len({day % 7 for day in weekdays}) == 7
    if every_weekday and not times.day_and:
        return [f"*-{months}-* {clock}"]
    if times.day_and:
        return [f"{date} {clock}" if every_weekday else f"{days_of_week} {date} {clock}" for date in dates]
    # With a day of the month and a day of the week, cron is due on either; one systemd expression would need both.
    return [*(f"{date} {clock}" for date in dates), f"{days_of_week} *-{months}-* {clock}"]


def _service(timer: Timer) -> str:
    if "$" in timer.command[0]:  # systemd reads $$ as $ in arguments, but not in this path
        raise UnwritableError(f"command: systemd expects a path without $, got {timer.command[0]!r}; rename a folder")
    command = " ".join(_quoted(word) for word in timer.command)
    optional = "-" if timer.notify is None else ""
    return f"""\
# {timer.about}
{COMMENT}[Unit]
Description={_text(timer.about)}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
WorkingDirectory={_text(str(timer.folder))}/
ExecStart={command}
# For variables such as MNIST_JOBS_NOTIFY and AWS_ACCESS_KEY_ID.
EnvironmentFile={optional}%E/mnist-jobs/{_text(timer.name)}.env
Restart=on-failure
RestartSec=60
RestartPreventExitStatus={" ".join(map(str, timer.final_exit_codes))}
KillMode=mixed
TimeoutStopSec=30
"""


def _variables(notify: str) -> str:
    """Return the file from which the service reads its variables. All users can read a unit, so it holds no secret."""
    value = re.sub(r'(["\\`$])', r"\\\1", notify)
    return f"""\
# Save this with mode 0600 in ~/.config/mnist-jobs for units of a user, or in /etc/mnist-jobs for units of the system.
MNIST_JOBS_NOTIFY="{value}"
"""


def _timer(timer: Timer, calendar: Iterable[str]) -> str:
    lines = "\n".join(f"OnCalendar={expression}" for expression in calendar)
    return f"""\
# systemd skips a time that a change of the clock skips. The command runs that slot at the next start.
[Unit]
Description={_text(timer.about)}

[Timer]
{lines}
AccuracySec=1s
# Start the command after a boot if it was due while the machine was off.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _list(values: Iterable[object], full: int) -> str:
    found = sorted(int(str(value)) for value in values)
    return "*" if len(found) == full else ",".join(f"{value:02d}" for value in found)


def _quoted(word: str) -> str:
    """Quote a word for ExecStart, which uses no shell but expands % and $."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return word if re.fullmatch(r"[A-Za-z0-9_./:=,+@$%-]+", word) else '"' + word.replace('"', '\\"') + '"'


def _text(text: str) -> str:
    """Escape an unquoted value. Put a "/" after a path: a backslash at the end of a line joins it with the next."""
    return text.replace("%", "%%")
