"""`jobs.retrain emit`: a schedule as files with which cron, systemd or Kubernetes runs `jobs.retrain --once`.

Each file is an example in cluster/deploy with the values of a `Timer`: a command and its timetable. The function of a
format raises UsageError for a value that the format cannot hold, CronError for a timetable.
"""

import importlib.resources
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from cronsim import CronSim

from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of
from jobs.console.output import CommandResult
from jobs.console.terminal import Drawn
from jobs.retrain.notices import check_receiver
from jobs.retrain.options import EmitOptions, RetrainOptions, check_train, train_options
from jobs.train.commands import plan_of
from jobs.train.options import TrainOptions
from mnist_lib.errors import CronError
from mnist_lib.objects.storage import check_storage, folder_of
from mnist_lib.settings import options_of, values_of

MAX_CRON_BYTES = 998  # of a command; Debian's cron silently drops the rest
EXAMPLES = importlib.resources.files("cluster") / "deploy"
MAX_CRONJOB_NAME_LENGTH = 52  # Kubernetes appends a suffix for the name of each Job
STORAGE = Path("/storage")  # the only folder of the container that outlives it, a volume in the manifest
DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


@dataclass(frozen=True, kw_only=True)
class Timer:
    """A command and when to run it. Raises UsageError for a text that is not printable, which no file can hold."""

    name: str  # of the schedule
    cron: str  # five valid fields
    zone: str  # the time zone of `cron`
    command: tuple[str, ...]  # begins with the path of Python here, or with "python" in an image
    folder: Path  # the working folder of the command
    starting_deadline: float | None = None  # the command may start up to this many seconds after a slot
    notify: str | None = None  # MNIST_JOBS_NOTIFY of the command: not a flag, since it can hold a secret

    def __post_init__(self) -> None:
        texts = {"command": "".join(self.command), "working folder": str(self.folder), "notify": self.notify or ""}
        for name, text in texts.items():
            if found := next((c for c in text if not c.isprintable()), ""):
                raise UsageError(f"{name}: expected printable characters, got {found!r} among them; change it")

    @property
    def about(self) -> str:
        """A description for people."""
        return f"mnist-jobs: retraining schedule {self.name}, {self.cron} in {self.zone}"


def emit(options: EmitOptions, flags: Sequence[str]) -> CommandResult:
    """Return the contents of each configuration file; `flags` are the options after the dashes."""
    train = check_train(train_options(options, flags))
    check_storage(options.storage)
    if options.scheduler == "kubernetes":
        _require_in_container(train)
        files = {"cronjob.yaml": cronjob(_timer(options, flags, here=False), options.image)}
    elif options.scheduler == "systemd":
        files = units(_timer(options, flags, here=True))
    else:
        files = {"crontab": crontab(_timer(options, flags, here=True))}
    text = "\n".join(f"# --- {name} ---\n{content}" if len(files) > 1 else content for name, content in files.items())
    return CommandResult(files, [Drawn(text.rstrip())])  # unchanged: options have no control characters


def _require_in_container(train: TrainOptions) -> None:
    """Raise UsageError if the run needs a file of this machine, which a container does not have."""
    plan = plan_of(train)
    own: dict[str, Sequence[object]] = {
        "models": [*plan.files],
        "weights": [name for files in plan.weights.values() for name in files],
        "dataset": [folder] if (folder := train.data().folder) else [],
        "tfds_import": [train.tfds_import] if train.tfds_import else [],
        "data_source": [train.data_source] if train.data_source else [],
    }
    for name, values in own.items():
        if values:
            got = ", ".join(map(str, values))
            raise UsageError(
                f"{name}: expected no file of this machine, since the manifest does not mount any, got {got}; add it to"
                " the image and to the manifest by hand, or put a dataset into a bucket"
            )


def _timer(options: EmitOptions, flags: Sequence[str], *, here: bool) -> Timer:
    """Return the timer of the schedule. `here`: whether the command runs on this machine, not in a container."""
    timetable, folder = options.timetable(), folder_of(options.storage)
    if folder and not here and not Path(os.path.normpath(folder)).is_relative_to(STORAGE):
        raise UsageError(
            f"storage: expected a URL or an absolute path in {STORAGE}, where the manifest mounts its volume, got"
            f" {options.storage!r}; use --storage {STORAGE}/NAME"
        )
    receiver = options.notify and options.notify.strip()
    if receiver and here:
        check_receiver(receiver)
    values, declared = values_of(options, "stored"), options_of(RetrainOptions, "stored")
    changed = {name: values[name] for name, field in declared.items() if values[name] != field.default}
    own = {
        "name": options.name,
        "cron": options.cron,
        "tz": options.tz,
        **changed,
        "storage": str(folder or options.storage),
    }
    command = [sys.executable if here else "python", "-m", "jobs.retrain", "--once", *flags_of(own)]
    return Timer(
        name=options.name,
        cron=timetable.cron,
        zone=timetable.zone,
        command=(*command, "--", *flags) if flags else tuple(command),
        folder=Path.cwd(),
        starting_deadline=options.starting_deadline,
        notify=receiver or None,
    )


def _filled(example: str, values: Mapping[str, str]) -> str:
    """Return the text of an example. `values`: the pattern of a text that occurs once -> the text in its place."""
    pattern, texts = "|".join(f"({pattern})" for pattern in values), [*values.values()]
    text = (EXAMPLES / example).read_text("utf-8")
    return re.sub(pattern, lambda match: texts[int(match.lastindex or 0) - 1], text, flags=re.MULTILINE)


def _require_portable(cron: str, scheduler: str) -> None:
    """Raise CronError for a timetable that only some implementations of cron understand."""
    if re.search("[L#W]", re.sub("[A-Z]{3}", "", cron.upper())):
        raise CronError(f"cron: {scheduler} does not understand L, LW or #, got {cron!r}; run the daemon instead")


# Cron


def crontab(timer: Timer) -> str:
    """Return lines to add with `crontab -e`. Raises UsageError for a command or a receiver that they cannot hold."""
    _require_portable(timer.cron, "a crontab")
    command = f"cd {shlex.quote(str(timer.folder))} && {shlex.join(timer.command)}"
    length = len(command.encode())
    if "%" in command or length > MAX_CRON_BYTES:
        got = "one with %" if "%" in command else f"{length:,}"
        expected = f"expected at most {MAX_CRON_BYTES} bytes without % in a crontab"
        raise UsageError(f"command: {expected}, got {got}; use emit systemd, or shorten it")
    variable = "# To be notified of each run, set MNIST_JOBS_NOTIFY=URL on a line above."
    if timer.notify is not None:
        if timer.notify.startswith(("'", '"')):  # which cron would remove
            raise UsageError("notify: expected no quote at the beginning in a crontab, got one; use emit systemd")
        variable = f"MNIST_JOBS_NOTIFY={timer.notify}"
    values = {
        r"^# mnist-jobs: .*": f"# {timer.about}",
        r"^# To be notified .*": variable,
        r"^CRON_TZ=.*": f"CRON_TZ={timer.zone}",
        r"^0 3 .*": f"{timer.cron} {command}",
        r"^@reboot .*": f"@reboot {command}",
    }
    return _filled("crontab", values)


# Kubernetes


def cronjob(timer: Timer, image: str) -> str:
    """Return the CronJob with the values of the timer, after a Secret if there is a receiver."""
    _require_portable(timer.cron, "Kubernetes")
    if "7" in timer.cron.split()[-1]:
        raise CronError(f"cron: Kubernetes expects Sunday as 0 or SUN, got 7 in {timer.cron!r}; write 0")
    name = f"mnist-{timer.name}"
    if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > MAX_CRONJOB_NAME_LENGTH:
        expected = f"at most {MAX_CRONJOB_NAME_LENGTH - len('mnist-')} lower-case letters, digits and single hyphens"
        raise UsageError(f"name: Kubernetes expects {expected}, got {timer.name!r}; name another schedule")
    # Kubernetes replaces $(NAME) and turns $$ into $.
    words = "".join(f"                - {_yaml(word.replace('$', '$$'))}\n" for word in timer.command)
    schedule = f"schedule: {_yaml(timer.cron)}\n"
    if timer.starting_deadline is not None:
        schedule += f"  startingDeadlineSeconds: {max(10, round(timer.starting_deadline))}\n"
    values = {
        r"^# Retraining .*": f"# {timer.about}",
        r"name: mnist-nightly\n": f"name: {name}\n",
        r"schedule: .*\n": schedule,
        r"timeZone: .*\n": f"timeZone: {_yaml(timer.zone)}\n",
        r"image: .*\n": f"image: {_yaml(image)}\n",
        r"command:\n(?: +- .*\n)+": f"command:\n{words}",
    }
    if timer.notify is not None:
        of_secret = {"^# .*\n": "", "name: .*": f"name: {name}-notify", "url: .*": f"url: {_yaml(timer.notify)}"}
        values["^# Retraining .*"] += f"\n{_filled('notify-secret.yaml', of_secret)}---"
        values["name: mnist-jobs-notify, key: url, optional: true"] = f"name: {name}-notify, key: url"
    return _filled("kubernetes/cronjob.yaml", values)


def _yaml(text: str) -> str:
    """Quote a text for YAML, always, since versions of YAML differ in which plain texts are numbers."""
    return str(yaml.safe_dump(text, default_style='"', width=float("inf"))).rstrip("\n")


# systemd


def units(timer: Timer) -> dict[str, str]:
    """Return the text of each unit, and of the file with its variables if there is one, by file name.

    Raises CronError for the n-th or last weekday of a month, UsageError for a path of Python with "$".
    """
    calendar = "\n".join(f"OnCalendar={expression}" for expression in on_calendar(timer.cron, timer.zone))
    if "$" in timer.command[0]:  # systemd reads $$ as $ in arguments, but not in this path
        raise UsageError(f"command: systemd expects a path without $, got {timer.command[0]!r}; rename a folder")
    description = {r"^Description=.*": f"Description={timer.about}"}
    service = description | {
        r"^# mnist-jobs: .*": f"# {timer.about}",
        # A "/" follows the folder, since a backslash at the end of a line joins it with the next.
        r"^WorkingDirectory=.*": f"WorkingDirectory={str(timer.folder).replace('%', '%%')}/",
        r"^ExecStart=.*": f"ExecStart={' '.join(map(_systemd_word, timer.command))}",
        r"^EnvironmentFile=.*": f"EnvironmentFile={'-' if timer.notify is None else ''}%E/mnist-jobs/{timer.name}.env",
    }
    name, example = f"mnist-jobs-{timer.name}", "systemd/mnist-jobs-nightly"
    files = {
        f"{name}.service": _filled(f"{example}.service", service),
        f"{name}.timer": _filled(f"{example}.timer", description | {r"^OnCalendar=.*": calendar}),
    }
    if timer.notify is not None:  # in a file of its own, since all users can read a unit, and it may be a secret
        value = re.sub(r'(["\\`$])', r"\\\1", timer.notify)
        variable = {"^MNIST_JOBS_NOTIFY=.*": f'MNIST_JOBS_NOTIFY="{value}"'}
        files[f"{timer.name}.env"] = _filled("systemd/nightly.env", variable)
    return files


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


def _systemd_word(word: str) -> str:
    """Quote a word for ExecStart, which uses no shell but expands % and $."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return word if re.fullmatch(r"[A-Za-z0-9_./:=,+@$%-]+", word) else '"' + word.replace('"', '\\"') + '"'
