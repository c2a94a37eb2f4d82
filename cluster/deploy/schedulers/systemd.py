"""For systemd: a service and its timer, as units of a user or of the system."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from cronsim import CronSim

from cluster.deploy.schedulers import FINAL_EXIT_CODES, SchedulerError, Timer

DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
RESTART_SECONDS = 60
STOP_SECONDS = 30


def units(timer: Timer) -> dict[str, str]:
    """-> file name, text.

    Raises:
        SchedulerError: OnCalendar cannot say it.
    """
    name = f"mnist-jobs-{timer.name}"
    return {f"{name}.service": _service(timer), f"{name}.timer": _timer(timer, on_calendar(timer.cron, timer.zone))}


def on_calendar(cron: str, zone: str) -> list[str]:
    """Expressions that together elapse when the timetable is due, but at a change of the clocks.

    Raises:
        SchedulerError: for the n-th or last weekday of a month.
    """
    times = CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
    weekdays = [day for day in times.weekdays if isinstance(day, int)]
    if len(weekdays) < len(times.weekdays) or CronSim.LAST_WEEKDAY in times.days:
        raise SchedulerError(f"cron: OnCalendar has no n-th or last weekday, got {cron!r}; run the daemon instead")
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
    # Where cron is told a day of the month and a day of the week, either will do; for systemd it takes both.
    return [*(f"{date} {clock}" for date in dates), f"{days_of_week} *-{months}-* {clock}"]


def _service(timer: Timer) -> str:
    command = " ".join(_quoted(word) for word in timer.command)
    return f"""\
# {timer.about}
# What was missed, what still runs and what is done already, the command finds out itself, by the slot's own run and the
# schedule's lease.
[Unit]
Description={_text(timer.about)}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
WorkingDirectory={str(timer.folder).replace("%", "%%")}
ExecStart={command}
# MNIST_JOBS_NOTIFY, AWS_ACCESS_KEY_ID and the like
EnvironmentFile=-%E/mnist-jobs/{timer.name}.env
Restart=on-failure
RestartSec={RESTART_SECONDS}
RestartPreventExitStatus={" ".join(map(str, FINAL_EXIT_CODES))}
KillMode=mixed
TimeoutStopSec={STOP_SECONDS}
"""


def _timer(timer: Timer, calendar: Iterable[str]) -> str:
    lines = "\n".join(f"OnCalendar={expression}" for expression in calendar)
    return f"""\
# A time that a change of the clocks leaves out, systemd leaves out too: the command runs that slot the next time.
[Unit]
Description={_text(timer.about)}

[Timer]
{lines}
AccuracySec=1s
# At once after a start of the machine, if it was due meanwhile.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _list(values: Iterable[object], full: int) -> str:
    found = sorted(int(str(value)) for value in values)
    return "*" if len(found) == full else ",".join(f"{value:02d}" for value in found)


def _quoted(word: str) -> str:
    """For ExecStart, which knows no shell but expands % and $."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return word if re.fullmatch(r"[A-Za-z0-9_./:=,+@$%-]+", word) else '"' + word.replace('"', '\\"') + '"'


def _text(text: str) -> str:
    return text.replace("%", "%%")
