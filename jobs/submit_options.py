"""The options of `jobs.submit` and of its commands; a docstring is the command's help."""

from dataclasses import dataclass

from jobs.command_line import option

URL_HELP = "of the head's dashboard (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS or http://127.0.0.1:8265)"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    address: str | None = option(None, URL_HELP, str, "URL")


@dataclass(frozen=True, kw_only=True)
class TellingOptions(ServerOptions):
    json: bool = option(False, "print one JSON document instead of text")


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(ServerOptions):
    """Sends this code and the options after "--", which are those of jobs.train, to a cluster; shows the log until the
    job has ended; then prints its result and exits as it did. Paths among them are of the cluster's head."""

    wait: bool = option(True, "until the job has ended; without, its id is printed")
    json: bool = option(False, "without waiting: print the id as JSON; the result is as --json after -- says")


@dataclass(frozen=True, kw_only=True)
class ListOptions(TellingOptions):
    """Every job that was submitted."""


@dataclass(frozen=True, kw_only=True)
class JobOptions(ServerOptions):
    job: str | None = option(None, "its id", str, "JOB", positional=True)


@dataclass(frozen=True, kw_only=True)
class StatusOptions(JobOptions, TellingOptions):
    """How a job is, or how it ended."""


@dataclass(frozen=True, kw_only=True)
class LogsOptions(JobOptions):
    """What a job has printed."""

    follow: bool = option(False, "until it has ended, and exit as it did")


@dataclass(frozen=True, kw_only=True)
class StopOptions(JobOptions, TellingOptions):
    """Ends a job; the same submission again goes on from there."""
