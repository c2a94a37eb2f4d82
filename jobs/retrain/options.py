"""The options of `jobs.retrain` and of its commands: all have the same ones, so that one file serves them all."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.console.exit_codes import UsageError
from jobs.console.options import flags_of, option, parse
from jobs.console.values import comma_list, number, whole_number
from jobs.train.options import STORAGE_HELP, TrainOptions
from mnist_lib.catalog import require_known
from mnist_lib.errors import SpecError
from mnist_lib.retraining.policy import CATCH_UP, OVERLAP, Policy
from mnist_lib.retraining.timetable import Timetable
from mnist_lib.store.objects import check_part

EVENTS = {
    "success": "a run is complete",
    "failure": "a slot ended without one, or some of its trials failed",
    "promotion": "there is a new champion",
    "rejection": "a model was stored and is not the champion",
    "skip": "a slot had no run: nothing had changed, or it was missed",
    "recovery": "a run goes on whose process has died",
}
# What each slot decides for itself.
NOT_TO_GIVE = ("storage", "run_name", "resume", "lease", "plan", "calibrate", "json", "verbose")
LONGEST_NAME = 60
SHORTEST_LEASE = 3.0  # seconds


def _train(value: Any) -> Mapping[str, Any]:
    """What --config has under `train:`."""
    if isinstance(value, Mapping):
        return value
    raise ValueError(f"expected the options of jobs.train, as in a --config file of it, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """Trains by a timetable, once for each slot of it; the options after "--", or under train: in the --config file,
    are those of jobs.train. Commands: status, history, emit; see `jobs.retrain COMMAND --help`."""

    name: str = option("nightly", "the schedule's; its runs are called after it", str, "NAME")
    cron: str | None = option(None, 'when: minute hour day month weekday, as in "0 3 * * *"', str, "CRON")
    tz: str = option("UTC", "of these times, as in Europe/Berlin", str, "ZONE")
    storage: str = option("results", STORAGE_HELP, str, "DIR|URL")
    train: Mapping[str, Any] | None = option(None, "in a --config file: the options of jobs.train", _train, "OPTIONS")
    once: bool = option(False, "run what is due and exit, for use by another scheduler; without: stay and wait")
    now: bool = option(False, "run once, at once, whatever the timetable says")
    catch_up: str = option(
        Policy.catch_up, "; ".join(f"{name}: {about}" for name, about in CATCH_UP.items()), str, "WHICH"
    )
    most_catch_up: int = option(Policy.most_catch_up, "missed slots that --catch-up all runs", whole_number, "N")
    starting_deadline: float | None = option(
        None, "seconds after which a slot is too late to be begun (default: never)", number, "S"
    )
    overlap: str = option(Policy.overlap, "; ".join(f"{name}: {about}" for name, about in OVERLAP.items()), str, "WHAT")
    jitter: float = option(Policy.jitter, "seconds over which the starts of schedules are spread", number, "S")
    max_attempts: int = option(
        Policy.max_attempts,
        "at a slot whose run is killed, or finds no cluster, resources or storage",
        whole_number,
        "N",
    )
    skip_unchanged: bool = option(False, "no run if data, configuration and code are those of the last that is done")
    lease_seconds: float = option(120.0, "after so long without a sign of life, a process counts as dead", number, "S")
    notify: str | None = option(
        None,
        "who is told: an http(s) URL that takes JSON, signed with MNIST_JOBS_NOTIFY_SECRET if that is set, or a command"
        " that reads it (default: MNIST_JOBS_NOTIFY)",
        str,
        "URL|COMMAND",
    )
    notify_on: tuple[str, ...] = option(
        tuple(EVENTS), "of what: " + "; ".join(f"{name}: {about}" for name, about in EVENTS.items()), comma_list, "A,B"
    )
    json: bool = option(False, "with --once, --now and commands: print one JSON document instead of text")
    verbose: bool = option(False, "show more, and tracebacks", short=["-v"])

    def timetable(self) -> Timetable:
        """Raises CronError for a schedule that is never; UsageError without one."""
        if self.cron is None:
            raise UsageError('cron: expected a timetable, got none; give one, as in --cron "0 3 * * *"')
        return Timetable(self.cron, self.tz)

    def policy(self) -> Policy:
        """Raises SpecError for a value that is out of range."""
        return Policy(
            catch_up=self.catch_up,
            most_catch_up=self.most_catch_up,
            starting_deadline=self.starting_deadline,
            overlap=self.overlap,
            jitter=self.jitter,
            max_attempts=self.max_attempts,
        )

    def check(self) -> None:
        """Raises SpecError for a value that no schedule can have."""
        check_part("name", self.name, LONGEST_NAME)
        if not SHORTEST_LEASE <= self.lease_seconds < float("inf"):
            raise SpecError(f"lease_seconds: expected a number from {SHORTEST_LEASE:.0f} on, got {self.lease_seconds}")
        for event in self.notify_on:
            require_known("notify_on", event, EVENTS)
        self.policy()

    @property
    def receiver(self) -> str | None:
        """Who is told."""
        return (self.notify or os.environ.get("MNIST_JOBS_NOTIFY") or "").strip() or None


@dataclass(frozen=True, kw_only=True)
class StatusOptions(RetrainOptions):
    """How a schedule is: its last slots, what became of them, its champions and what comes next."""

    last: int = option(10, "slots to show", whole_number, "N")


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(RetrainOptions):
    """Everything that happened, the newest first."""

    last: int = option(1000, "entries to show", whole_number, "N")


@dataclass(frozen=True, kw_only=True)
class EmitOptions(RetrainOptions):
    """The same schedule for another scheduler, which runs --once: crontab, systemd, kubernetes or raycronjob."""

    scheduler: str | None = option(None, "which", str, "SCHEDULER", positional=True)
    image: str = option("mnist-jobs:0.1.0", "of the containers", str, "IMAGE")


def train_flags(options: RetrainOptions, after_dashes: Sequence[str]) -> list[str]:
    """Of `jobs.train`, as its command line has them; those of the command line override those of the file."""
    return [*flags_of(options.train or {}), *after_dashes]


def check_train(flags: Sequence[str]) -> TrainOptions:
    """Refuses here what every run would be refused for.

    Raises:
        UsageError, SpecError: naming the option.
    """
    given: TrainOptions = parse("jobs.retrain --", TrainOptions, flags)
    for name in NOT_TO_GIVE:
        if getattr(given, name) != TrainOptions.__dataclass_fields__[name].default:
            hint = "give it before --" if name in ("storage", "json", "verbose") else "leave it out"
            raise UsageError(f"{name}: each slot's run is given its own; {hint}")
    given.trials()
    given.check()
    return given
