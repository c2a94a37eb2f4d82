"""Files with which cron, systemd and Kubernetes run a schedule, each made from a `Timer`: a command and its timetable.

Each format represents every value that a `Timer` can hold, or raises UsageError. A timetable that the scheduler cannot
express raises CronError.
"""

import hashlib
import importlib.resources
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from cronsim import CronSim

from jobs.console.exit_codes import TABLE, UsageError
from mnist_lib.errors import CronError

# For every emitted file.
COMMENT = """\
# The command itself finds missed slots and unfinished runs by reading the schedule's journal in the storage. It holds
# the schedule's lease, so that one process works at a time and no slot is run twice.
"""
# The scheduler must not retry after these. If `retry` is "once", the command has already retried if it was worth it.
FINAL_EXIT_CODES = tuple(row.number for row in TABLE if row.number and row.retry != "yes")
# Control characters and line ends of any kind, surrogates, which UTF-8 cannot encode, and the code points that Unicode
# calls noncharacters, which systemd refuses.
NO_CHARACTERS = "".join(chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
UNWRITABLE = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef{NO_CHARACTERS}]")
MAX_CRON_BYTES = 998  # of a command and of a variable; Debian's cron silently drops the rest
CRONJOB = importlib.resources.files("cluster") / "deploy/kubernetes/cronjob.yaml"
MAX_CRONJOB_NAME_LENGTH = 52  # Kubernetes appends a suffix for the name of each Job
STORAGE = Path("/storage")  # the only folder of the container that outlives it, a volume in the manifest
DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


@dataclass(frozen=True, kw_only=True)
class Timer:
    """A command and when to run it. Raises UsageError for a text that no file could hold."""

    name: str  # of the schedule
    cron: str  # five valid fields
    zone: str  # the time zone of `cron`
    command: tuple[str, ...]  # begins with the path of Python here, or with "python" in an image
    folder: Path  # the working folder of the command
    starting_deadline: float | None = None  # the command may start up to this many seconds after a slot
    notify: str | None = None  # MNIST_JOBS_NOTIFY of the command: not a flag, since it can hold a secret

    def __post_init__(self) -> None:
        for word in self.command:
            _require_writable("command", word)
        _require_writable("working folder", str(self.folder))
        _require_writable("notify", self.notify or "")
        if not re.fullmatch(r"[ -$&-\[\]-~]*", self.about):  # it is written as it is, into comments too
            raise UsageError(f"expected printable ASCII without % and backslashes, got {self.about!r}; change it")

    @property
    def about(self) -> str:
        """A description for people."""
        return f"mnist-jobs: retraining schedule {self.name}, {self.cron} in {self.zone}"


def _require_writable(what: str, text: str) -> None:
    """Raise UsageError if the text contains any of the characters in `UNWRITABLE`."""
    if found := UNWRITABLE.search(text):
        raise UsageError(f"{what}: expected UTF-8 without control characters, got {found[0]!r} in it; change it")


def _require_portable(cron: str, scheduler: str) -> None:
    """Raise CronError for a timetable that only some implementations of cron understand."""
    if re.search("[L#W]", re.sub("[A-Z]{3}", "", cron.upper())):
        raise CronError(f"cron: {scheduler} does not understand L, LW or #, got {cron!r}; run the daemon instead")


# Cron


def crontab(timer: Timer) -> str:
    """Return lines to add with `crontab -e`. Raises UsageError for a command that is too long for some of them."""
    _require_portable(timer.cron, "a crontab")
    words = " ".join(map(_cron_word, timer.command))
    command = _short("command", f"cd {_cron_word(str(timer.folder))} && {words}")
    hint = "# To be notified of each run, set MNIST_JOBS_NOTIFY=URL on a line above."
    variable = hint if timer.notify is None else f"MNIST_JOBS_NOTIFY={_short('notify', _cron_variable(timer.notify))}"
    return f"""\
# {timer.about}
{COMMENT}{variable}
# CRON_TZ works with cronie. Debian's cron uses the machine's time zone: set that, or run the daemon.
CRON_TZ={timer.zone}
{timer.cron} {command}
# After a boot: resume an interrupted run and run a missed slot.
@reboot {command}
"""


def _cron_word(word: str) -> str:
    """Quote a word for the shell and for cron, which turns % into a line break.

    `\\%` gives a literal %. Some versions of cron also turn two backslashes into one, so every backslash of the word
    itself is followed by two quotes, which the shell removes.
    """
    return shlex.quote(word).replace("\\", "\\''").replace("%", r"\%")


def _cron_variable(value: str) -> str:
    """Quote the value of a variable if it begins with a quote, which cron would remove. Values have no escapes."""
    if not value.startswith(("'", '"')):
        return value
    for quote in "'\"":
        if quote not in value:
            return f"{quote}{value}{quote}"
    raise UsageError("notify: a crontab cannot hold a command that begins with a quote and has both kinds of quotes")


def _short(what: str, text: str) -> str:
    length = len(text.encode())
    if length > MAX_CRON_BYTES:
        expected = f"{what}: expected at most {MAX_CRON_BYTES} bytes in a crontab"
        raise UsageError(f"{expected}, got {length:,}; use emit systemd, or shorten it")
    return text


# Kubernetes


def cronjob(timer: Timer, image: str) -> str:
    """Return the CronJob in `CRONJOB` with the values of the timer, after a Secret if there is a receiver."""
    _require_writable("image", image)
    name = _object_name(timer.name)
    # Kubernetes replaces $(NAME) and turns $$ into $.
    words = "".join(f"                - {_yaml(word.replace('$', '$$'))}\n" for word in timer.command)
    schedule = f"schedule: {_yaml(_kubernetes_schedule(timer.cron))}\n"
    if timer.starting_deadline is not None:
        schedule += f"  startingDeadlineSeconds: {max(10, round(timer.starting_deadline))}\n"
    values = {
        r"name: mnist-nightly\n": f"name: {name}\n",
        r"schedule: .*\n": schedule,
        r"timeZone: .*\n": f"timeZone: {_yaml(timer.zone)}\n",
        r"image: .*\n": f"image: {_yaml(image)}\n",
        r"command:\n( +- .*\n)+": f"command:\n{words}",
    }
    secret = ""
    if timer.notify is not None:
        values[r"name: mnist-jobs-notify, key: url, optional: true"] = f"name: {name}-notify, key: url"
        secret = f"""\
apiVersion: v1
kind: Secret
metadata:
  name: {name}-notify
  labels:
    app.kubernetes.io/part-of: mnist-jobs
stringData:
  url: {_yaml(timer.notify)}
---
"""
    _, _, text = CRONJOB.read_text("utf-8").partition("\n")  # without the line that describes the file itself
    for pattern, value in values.items():
        text, count = re.subn(pattern, value.replace("\\", r"\\"), text)
        assert count == 1, pattern
    return f"# {timer.about}\n{secret}{text}"


def _kubernetes_schedule(cron: str) -> str:
    """Return the timetable with Sunday as 0, since Kubernetes does not understand 7."""
    _require_portable(cron, "Kubernetes")
    *others, weekdays = cron.split()
    if "7" in weekdays:
        days = CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)).weekdays
        weekdays = ",".join(map(str, sorted({day % 7 for day in days if isinstance(day, int)})))
    return " ".join([*others, weekdays])


def _object_name(schedule: str) -> str:
    """Return a name that Kubernetes accepts. A hash distinguishes schedules whose names would become the same."""
    name = f"mnist-{schedule}"
    if re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) <= MAX_CRONJOB_NAME_LENGTH:
        return name
    suffix = "-" + hashlib.sha256(schedule.encode()).hexdigest()[:6]
    return re.sub("[^a-z0-9]+", "-", name.lower())[: MAX_CRONJOB_NAME_LENGTH - len(suffix)].strip("-") + suffix


def _yaml(text: str) -> str:
    """Quote a text for YAML, always, since versions of YAML differ in which plain texts are numbers."""
    return str(yaml.safe_dump(text, default_style='"', width=float("inf"))).rstrip("\n")


# systemd


def units(timer: Timer) -> dict[str, str]:
    """Return the text of each unit, and of the file with its variables if there is one, by file name.

    Raises CronError for the n-th or last weekday of a month, UsageError for a path of Python with "$".
    """
    name, calendar = f"mnist-jobs-{timer.name}", on_calendar(timer.cron, timer.zone)
    files = {f"{name}.service": _service(timer), f"{name}.timer": _systemd_timer(timer, calendar)}
    return files if timer.notify is None else {**files, f"{timer.name}.env": _systemd_variables(timer.notify)}


def on_calendar(cron: str, zone: str) -> list[str]:
    """Return expressions that together elapse when cron is due, except at changes of the clock."""
    times = CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
    weekdays = [day for day in times.weekdays if isinstance(day, int)]
    if len(weekdays) < len(times.weekdays) or CronSim.LAST_WEEKDAY in times.days:
        raise CronError(f"cron: systemd has no n-th or last weekday, got {cron!r}; run the daemon instead")
    days_of_week = ",".join(DAYS[day] for day in sorted({day % 7 for day in weekdays}))
    clock = f"{_numbers(times.hours, 24)}:{_numbers(times.minutes, 60)}:00 {zone}"
    months = _numbers(times.months, 12)
    dates = [f"*-{months}-{_numbers((day for day in times.days if day > 0), 31)}"] if max(times.days) > 0 else []
    if CronSim.LAST in times.days:
        dates.append(f"*-{months}~01")
    every_weekday = len({day % 7 for day in weekdays}) == 7
    if every_weekday and not times.day_and:
        return [f"*-{months}-* {clock}"]
    if times.day_and:
        return [f"{date} {clock}" if every_weekday else f"{days_of_week} {date} {clock}" for date in dates]
    # With a day of the month and a day of the week, cron is due on either; one systemd expression would need both.
    return [*(f"{date} {clock}" for date in dates), f"{days_of_week} *-{months}-* {clock}"]


def _numbers(values: Iterable[object], full: int) -> str:
    numbers = sorted(int(str(value)) for value in values)
    return "*" if len(numbers) == full else ",".join(f"{value:02d}" for value in numbers)


def _service(timer: Timer) -> str:
    if "$" in timer.command[0]:  # systemd reads $$ as $ in arguments, but not in this path
        raise UsageError(f"command: systemd expects a path without $, got {timer.command[0]!r}; rename a folder")
    command = " ".join(map(_systemd_word, timer.command))
    optional = "-" if timer.notify is None else ""
    # A "/" follows the folder, since a backslash at the end of a line joins it with the next.
    return f"""\
# {timer.about}
{COMMENT}[Unit]
Description={timer.about}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
WorkingDirectory={str(timer.folder).replace("%", "%%")}/
ExecStart={command}
# For variables such as MNIST_JOBS_NOTIFY and AWS_ACCESS_KEY_ID.
EnvironmentFile={optional}%E/mnist-jobs/{timer.name}.env
Restart=on-failure
RestartSec=60
RestartPreventExitStatus={" ".join(map(str, FINAL_EXIT_CODES))}
KillMode=mixed
TimeoutStopSec=30
"""


def _systemd_word(word: str) -> str:
    """Quote a word for ExecStart, which uses no shell but expands % and $."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return word if re.fullmatch(r"[A-Za-z0-9_./:=,+@$%-]+", word) else '"' + word.replace('"', '\\"') + '"'


def _systemd_variables(notify: str) -> str:
    """Return the file from which the service reads its variables. All users can read a unit, so it holds no secret."""
    value = re.sub(r'(["\\`$])', r"\\\1", notify)
    return f"""\
# Save this with mode 0600 in ~/.config/mnist-jobs for units of a user, or in /etc/mnist-jobs for units of the system.
MNIST_JOBS_NOTIFY="{value}"
"""


def _systemd_timer(timer: Timer, calendar: Iterable[str]) -> str:
    lines = "\n".join(f"OnCalendar={expression}" for expression in calendar)
    return f"""\
# systemd skips a time that a change of the clock skips. The command runs that slot at the next start.
[Unit]
Description={timer.about}

[Timer]
{lines}
AccuracySec=1s
# Start the command after a boot if it was due while the machine was off.
Persistent=true

[Install]
WantedBy=timers.target
"""
