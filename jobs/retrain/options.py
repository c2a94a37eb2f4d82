"""The options of `jobs.retrain` and its subcommands. One configuration file serves all of them."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from jobs.console.exit_codes import UsageError
from jobs.console.options import JsonOptions, StorageOptions, VerboseOptions
from jobs.retrain.slots import Timetable
from jobs.train.commands import job_options, plan_of
from jobs.train.options import TrainOptions
from mnist_lib.objects.protocol import check_part
from mnist_lib.settings import Positive, one_of, option

SCHEDULERS = ("crontab", "systemd", "kubernetes")
CRON_HELP = 'timetable, as minute hour day month weekday, such as "0 3 * * *" for every day at 3:00'
# What notices are sent of; docs/retrain.md says what each means.
EVENTS = ("success", "failure", "promotion", "rejection", "dataset-changed", "damaged", "unusual", "skip", "recovery")
# Options of jobs.train that a schedule does not take -> what to do instead.
REFUSED = dict.fromkeys(("storage", "json", "verbose"), "give it before --")
REFUSED |= dict.fromkeys(("run_name", "resume", "plan"), "leave it out")
REFUSED["finish_by"] = "use --max-seconds, which limits every run"
MAX_NAME_LENGTH = 60
LeaseSeconds = Annotated[float, Meta(ge=3, le=sys.float_info.max, title="S", description="a number of at least 3")]


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(StorageOptions, JsonOptions):
    """Which schedule a command is about."""

    GROUP = "schedule"

    name: str = option("nightly", "name of the schedule, and prefix of the names of its runs")
    cron: str | None = option(None, CRON_HELP, "CRON", required=True)
    tz: str = option("UTC", "time zone of --cron, such as Europe/Berlin", "ZONE")

    def timetable(self) -> Timetable:
        """Return the timetable. Raises CronError if it is invalid or never due."""
        return Timetable(self.cron or "", self.tz)

    def check(self) -> None:
        """Raise SpecError for a name that cannot be that of a schedule."""
        check_part("name", self.name, MAX_NAME_LENGTH)


@dataclass(frozen=True, kw_only=True)
class RetrainOptions(ScheduleOptions, VerboseOptions):
    """Run jobs.train on a schedule: once for each slot, which is a time of --cron. The options after "--", or under
    train: in the --config file, are those of jobs.train, or of jobs.search, if vary is among them. Subcommands: status
    (state of a schedule), emit (file for another scheduler); see `python -m jobs.retrain SUBCOMMAND --help`."""

    GROUP = "retraining"
    COMMANDS = "[status|emit]"
    USAGE_TAIL = "[OPTIONS] [-- TRAIN_OPTIONS]"

    train: Mapping[str, Any] | None = option(
        None, "options of the runs, usually given in a --config file, as in train: {epochs: 3}", "OPTIONS"
    )
    once: bool = option(
        False, "run the due slot and exit, for use by another scheduler (default: run as a daemon)", stored=False
    )
    now: bool = option(
        False, "start one run immediately, regardless of --cron, and exit when it has ended", stored=False
    )
    skip_unchanged: bool = option(
        False, "skip a slot if data, configuration and code are the same as in the last complete run"
    )
    max_attempts: Positive = option(3, "maximum number of attempts per slot; only temporary errors are retried")
    lease_seconds: LeaseSeconds = option(
        120.0, "seconds without a heartbeat from this process after which another process takes over"
    )
    notify: str | None = option(
        None,
        "where to send notices as JSON: an http(s) URL, or a shell command that reads them from standard input; notices"
        " to a URL are signed if MNIST_JOBS_NOTIFY_SECRET is set (default: MNIST_JOBS_NOTIFY)",
        "URL|COMMAND",
        stored=False,  # it can hold a secret
    )
    notify_on: tuple[Annotated[str, one_of(EVENTS)], ...] = option(
        EVENTS, f"events to send notices of: {', '.join(EVENTS)} (default: all)"
    )


@dataclass(frozen=True, kw_only=True)
class StatusOptions(ScheduleOptions):
    """Print the state of a schedule: what has happened, the newest first, and the next slots."""

    SHARES_FILE_WITH = RetrainOptions

    cron: str | None = option(
        None, 'cron expression of the schedule, such as "0 3 * * *"; if given, the next slots are printed', "CRON"
    )
    tz: str = option("UTC", "time zone of --cron and of the printed times, such as Europe/Berlin", "ZONE")
    last: Positive = option(10, "number of past events to print")


@dataclass(frozen=True, kw_only=True)
class EmitOptions(RetrainOptions, without=["once", "now"]):
    """Print the schedule as a file: a service of systemd that runs the daemon, or lines for a crontab or a CronJob of
    Kubernetes that run `jobs.retrain --once`."""

    COMMANDS = ""
    SHARES_FILE_WITH = RetrainOptions

    scheduler: Annotated[str, one_of(SCHEDULERS)] = option(
        None, f"scheduler: {', '.join(SCHEDULERS)}", "SCHEDULER", positional=True, required=True
    )
    image: str = option("mnist-jobs:0.1.0", "container image, for kubernetes", "IMAGE")


def train_options(options: RetrainOptions, after_dashes: Sequence[str]) -> TrainOptions:
    """Return the options of jobs.train or jobs.search: those of the file, overridden by those after the dashes."""
    return job_options("jobs.retrain --", after_dashes, options.train or {})


def check_train(given: TrainOptions) -> TrainOptions:
    """Return the options of jobs.train. Raises UsageError or SpecError for options that every run would refuse."""
    for name, hint in REFUSED.items():
        if getattr(given, name) != TrainOptions.__dataclass_fields__[name].default:
            raise UsageError(f"{name}: not allowed among the options of jobs.train in a schedule; {hint}")
    plan_of(given).check()
    return given
