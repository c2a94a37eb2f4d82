"""The options of `jobs.retrain` and its subcommands. One configuration file serves all of them."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from jobs.console.exit_codes import UsageError
from jobs.console.options import JsonOptions, StorageOptions, VerboseOptions
from jobs.retrain.slots import Policy, Timetable
from jobs.train.commands import job_options, plan_of
from jobs.train.options import CHAMPION, TrainOptions
from mnist_lib.objects.protocol import check_part
from mnist_lib.settings import Positive, field_values, one_of, option

SCHEDULERS = ("crontab", "systemd", "kubernetes")
CRON_HELP = 'timetable, as minute hour day month weekday, such as "0 3 * * *" for every day at 3:00'
EVENTS = {
    "success": "a run is complete",
    "failure": "a run or some of its trials failed",
    "promotion": "a model became the champion",
    "rejection": "a model was stored and did not become the champion",
    "dataset-changed": "no model was promoted, since the dataset has changed unexpectedly",
    "damaged": "pictures cannot be read that could be read before, or are new",
    "unusual": "a class has unusually many new images, or the accuracy on new images has fallen",
    "skip": "a slot was not run",
    "recovery": "the run of a process that died was resumed",
}
# Options of jobs.train that a schedule does not take -> what to do instead.
REFUSED = dict.fromkeys(("storage", "json", "verbose"), "give it before --")
REFUSED |= dict.fromkeys(("run_name", "resume", "plan"), "leave it out")
INITS = {
    "scratch": "random weights",
    "champion": "the weights of the model's champion for the dataset, or random ones as long as it has none",
}
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
class RetrainOptions(ScheduleOptions, Policy, VerboseOptions):
    """Run jobs.train on a schedule: once for each slot, which is a time of --cron. The options after "--", or under
    train: in the --config file, are those of jobs.train. Subcommands: status (state of a schedule), history (its
    events), emit (configuration for another scheduler); see `python -m jobs.retrain SUBCOMMAND --help`."""

    GROUP = "retraining"
    COMMANDS = "[status|history|emit]"
    USAGE_TAIL = "[OPTIONS] [-- TRAIN_OPTIONS]"

    train: Mapping[str, Any] | None = option(
        None, "options of jobs.train, usually given in a --config file, as in train: {epochs: 3}", "OPTIONS"
    )
    search: Mapping[str, Any] | None = option(
        None,
        "options of jobs.search, which then runs instead of jobs.train, usually given in a --config file, as in search:"
        ' {vary: {learning_rate: "1e-4..1e-1:log"}}',
        "OPTIONS",
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
    init: Annotated[str, one_of(INITS)] = option(
        "scratch", f"what the trials of each run start from. {'; '.join(map(': '.join, INITS.items()))}"
    )
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
        tuple(EVENTS),
        f"events to send notices of: {', '.join(f'{name} ({about})' for name, about in EVENTS.items())} (default: all)",
    )

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The options of jobs.train or jobs.search, as in a --config file of theirs."""
        return self.train or self.search or {}

    @property
    def more_flags(self) -> list[str]:
        """The options of jobs.train or jobs.search that follow from those of the schedule."""
        return [f"--init-from=@{CHAMPION}"] if self.init == CHAMPION else []

    def policy(self) -> Policy:
        return Policy(**field_values(self, Policy))


@dataclass(frozen=True, kw_only=True)
class StatusOptions(ScheduleOptions):
    """Print the state of a schedule: its last slots, the champions that its runs produced, and the next slots."""

    SHARES_FILE_WITH = RetrainOptions

    cron: str | None = option(
        None, 'cron expression of the schedule, such as "0 3 * * *"; if given, the next slots are printed', "CRON"
    )
    tz: str = option("UTC", "time zone of --cron and of the printed times, such as Europe/Berlin", "ZONE")
    last: Positive = option(10, "number of past slots, and of champions, to print")


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(ScheduleOptions, without=["cron"]):
    """Print the events of a schedule, the newest first."""

    SHARES_FILE_WITH = RetrainOptions

    tz: str = option("UTC", "time zone of the printed times, such as Europe/Berlin", "ZONE")
    last: Positive = option(1000, "number of events to print")


@dataclass(frozen=True, kw_only=True)
class EmitOptions(RetrainOptions, without=["once", "now"]):
    """Print the schedule as a configuration for another scheduler, which then runs `jobs.retrain --once`."""

    COMMANDS = ""
    SHARES_FILE_WITH = RetrainOptions

    scheduler: Annotated[str, one_of(SCHEDULERS)] = option(
        None, f"scheduler: {', '.join(SCHEDULERS)}", "SCHEDULER", positional=True, required=True
    )
    image: str = option("mnist-jobs:0.1.0", "container image, for kubernetes", "IMAGE")


def train_options(options: RetrainOptions, after_dashes: Sequence[str]) -> TrainOptions:
    """Return the options of jobs.train or jobs.search: those of the file, overridden by those after the dashes."""
    if options.train and options.search:
        raise UsageError("train, search: expected one of them, got both")
    given = job_options("jobs.retrain --", after_dashes, options.configuration)
    if options.more_flags:
        if given.init_from is not None:
            raise UsageError("init: expected it or --init-from among the options of jobs.train, got both; omit one")
        given = job_options("jobs.retrain --", [*after_dashes, *options.more_flags], options.configuration)
    if options.search and given.COMMAND != "jobs.search":
        raise UsageError("search: expected vary among its options, got none; or use train")
    return given


def check_train(given: TrainOptions) -> TrainOptions:
    """Return the options of jobs.train. Raises UsageError or SpecError for options that every run would refuse."""
    for name, hint in REFUSED.items():
        if getattr(given, name) != TrainOptions.__dataclass_fields__[name].default:
            raise UsageError(f"{name}: not allowed among the options of jobs.train in a schedule; {hint}")
    plan_of(given).check()
    return given
