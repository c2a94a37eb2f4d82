"""The options of `jobs.retrain` and its subcommands. One configuration file serves all of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from jobs.console.exit_codes import UsageError
from jobs.console.options import option
from jobs.console.values import comma_list, named_values, number, whole_number
from jobs.search.options import SearchOptions, job_options
from jobs.train.options import STORAGE_HELP, TrainOptions
from mnist_lib.catalog import require_known
from mnist_lib.errors import SpecError
from mnist_lib.objects.protocol import check_part
from mnist_lib.retraining.slots import OVERLAP, Policy, Timetable

CRON_HELP = 'required: when to run, as minute hour day month weekday, such as "0 3 * * *" for every day at 3:00'
EVENTS = {
    "success": "a run is complete",
    "failure": "a run or some of its trials failed",
    "promotion": "a model became the champion",
    "rejection": "a model was stored and did not become the champion",
    "skip": "a slot was not run",
    "recovery": "the run of a process that died was resumed",
}
# Options of jobs.train that a schedule does not take -> what to do instead.
REFUSED = dict.fromkeys(("storage", "json", "verbose"), "give it before --")
REFUSED |= dict.fromkeys(("run_name", "resume", "lease", "plan", "calibrate"), "leave it out")
REFUSED["finish_by"] = "use --max-seconds, which limits every run"
MAX_NAME_LENGTH = 60
MIN_LEASE_SECONDS = 3.0


def _choices(about: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({meaning})" for name, meaning in about.items())


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """Run jobs.train on a schedule: once for each slot, which is a time of --cron. The options after "--", or under
    train: in the --config file, are those of jobs.train. Subcommands: status (state of a schedule), history (its
    events), emit (configuration for another scheduler); see `python -m jobs.retrain SUBCOMMAND --help`."""

    HIDDEN: ClassVar[Collection[str]] = ()  # options that are accepted but not listed by --help

    name: str = option("nightly", "name of the schedule, and prefix of the names of its runs", str, "NAME")
    cron: str | None = option(None, CRON_HELP, str, "CRON")
    tz: str = option("UTC", "time zone of --cron, such as Europe/Berlin", str, "ZONE")
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL")
    train: Mapping[str, Any] | None = option(
        None,
        "options of jobs.train, usually given in a --config file, as in train: {epochs: 3}",
        named_values,
        "OPTIONS",
    )
    search: Mapping[str, Any] | None = option(
        None,
        "options of jobs.search, which then runs instead of jobs.train, usually given in a --config file, as in search:"
        ' {vary: {learning_rate: "1e-4..1e-1:log"}}',
        named_values,
        "OPTIONS",
    )
    once: bool = option(False, "run what is due and exit, for use by another scheduler (default: run as a daemon)")
    now: bool = option(False, "start one run immediately, regardless of --cron, and exit when it has ended")
    starting_deadline: float | None = option(
        None, "maximum delay of a slot in seconds, after which it is not run (default: no limit)", number, "S"
    )
    overlap: str = option(Policy.overlap, f"what to do about slots due during a run: {_choices(OVERLAP)}", str, "WHAT")
    jitter: float = option(
        Policy.jitter, "seconds over which starts are spread, so that schedules do not start together", number, "S"
    )
    max_attempts: int = option(
        Policy.max_attempts, "maximum number of attempts per slot; only temporary errors are retried", whole_number, "N"
    )
    skip_unchanged: bool = option(
        False, "skip a slot if data, configuration and code are the same as in the last complete run"
    )
    lease_seconds: float = option(
        120.0, "seconds without a heartbeat from this process after which another process takes over", number, "S"
    )
    notify: str | None = option(
        None,
        "where to send notices as JSON: an http(s) URL, or a shell command that reads them from standard input; notices"
        " to a URL are signed if MNIST_JOBS_NOTIFY_SECRET is set (default: MNIST_JOBS_NOTIFY)",
        str,
        "URL|COMMAND",
    )
    notify_on: tuple[str, ...] = option(
        tuple(EVENTS), f"events to send notices of: {_choices(EVENTS)} (default: all)", comma_list, "A,B"
    )
    json: bool = option(False, "print the result as one JSON document instead of text")
    verbose: bool = option(False, "log more, and print the traceback of an error", short=["-v"])

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The options of jobs.train or jobs.search, as in a --config file of theirs."""
        return self.train or self.search or {}

    def timetable(self) -> Timetable:
        """Return the timetable. Raises CronError if it is invalid or never due, UsageError if it is missing."""
        if self.cron is None:
            raise UsageError('cron: expected a timetable, got none; use --cron "0 3 * * *" for 3:00 every day')
        return Timetable(self.cron, self.tz)

    def policy(self) -> Policy:
        return Policy(**{field.name: getattr(self, field.name) for field in fields(Policy)})

    def check(self) -> None:
        """Raise SpecError for a value that is out of range."""
        check_part("name", self.name, MAX_NAME_LENGTH)
        if not MIN_LEASE_SECONDS <= self.lease_seconds < float("inf"):
            expected = f"a number of at least {MIN_LEASE_SECONDS:.0f}"
            raise SpecError(f"lease_seconds: expected {expected}, got {self.lease_seconds}")
        for event in self.notify_on:
            require_known("notify_on", event, EVENTS)
        self.policy()


OPTIONS = {field.name for field in fields(RetrainOptions)}


@dataclass(frozen=True, kw_only=True)
class StatusOptions(RetrainOptions):
    """Print the state of a schedule: its last slots, the champions that its runs produced, and the next slots."""

    HIDDEN = OPTIONS - {"name", "cron", "tz", "storage", "json"}

    cron: str | None = option(
        None, 'cron expression of the schedule, such as "0 3 * * *"; if given, the next slots are printed', str, "CRON"
    )
    tz: str = option("UTC", "time zone of --cron and of the printed times, such as Europe/Berlin", str, "ZONE")
    last: int = option(10, "number of past slots, and of champions, to print", whole_number, "N")


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(RetrainOptions):
    """Print the events of a schedule, the newest first."""

    HIDDEN = OPTIONS - {"name", "tz", "storage", "json"}

    tz: str = option("UTC", "time zone of the printed times, such as Europe/Berlin", str, "ZONE")
    last: int = option(1000, "number of events to print", whole_number, "N")


@dataclass(frozen=True, kw_only=True)
class EmitOptions(RetrainOptions):
    """Print the schedule as a configuration for another scheduler, which then runs `jobs.retrain --once`."""

    HIDDEN = ("once", "now")

    scheduler: str | None = option(None, "required: crontab, systemd or kubernetes", str, "SCHEDULER", positional=True)
    image: str = option("mnist-jobs:0.1.0", "container image, for kubernetes", str, "IMAGE")


def train_options(options: RetrainOptions, after_dashes: Sequence[str]) -> TrainOptions:
    """Return the options of jobs.train or jobs.search: those of the file, overridden by those after the dashes."""
    if options.train and options.search:
        raise UsageError("train, search: expected one of them, got both")
    given = job_options("jobs.retrain --", after_dashes, options.configuration)
    if options.search and not isinstance(given, SearchOptions):
        raise UsageError("search: expected vary or space among its options, got neither; or use train")
    return given


def check_train(given: TrainOptions) -> TrainOptions:
    """Return the options of jobs.train. Raises UsageError or SpecError for options that every run would refuse."""
    for name, hint in REFUSED.items():
        if getattr(given, name) != TrainOptions.__dataclass_fields__[name].default:
            raise UsageError(f"{name}: not allowed among the options of jobs.train in a schedule; {hint}")
    given.grid()
    given.check()
    return given
