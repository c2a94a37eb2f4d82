"""Submitted jobs: the options of `jobs.submit`, following a job to its end, and the subcommands."""

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobs.console import exit_codes
from jobs.console.exit_codes import UsageError
from jobs.console.options import option
from jobs.console.output import RESULT_BEGINS, RESULT_ENDS, CommandResult, print_result, print_stderr, table
from mnist_lib.clock import text_of

if TYPE_CHECKING:
    from cluster.job_server import Job, JobClient

DEFAULT_URL = "RAY_API_SERVER_ADDRESS, RAY_ADDRESS or http://127.0.0.1:8265"
STOP_SECONDS = 30.0  # timeout for a job to end after a request to stop


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    address: str | None = option(None, f"URL of the Ray dashboard (default: {DEFAULT_URL})", str, "URL")


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(ServerOptions):
    """Send this code to a Ray cluster and run jobs.train there, with the options after "--". Print the log until the
    job has ended, then its result, and exit with its exit code. Absolute paths after "--" are on the cluster's head.
    Subcommands: list, status, logs, stop; see `python -m jobs.submit SUBCOMMAND --help`."""

    wait: bool = option(True, "wait until the job has ended; --no-wait prints its id and exits (default: on)")
    json: bool = option(False, "with --no-wait: print the id as JSON (for the result as JSON, give --json after --)")


@dataclass(frozen=True, kw_only=True)
class JobOptions(ServerOptions):
    job: str | None = option(None, "required: id of the job", str, "JOB", positional=True)


@dataclass(frozen=True, kw_only=True)
class OutputOptions(ServerOptions):
    json: bool = option(False, "print one JSON document instead of text")


@dataclass(frozen=True, kw_only=True)
class ListOptions(OutputOptions):
    """Print every submitted job."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions(JobOptions, OutputOptions):
    """Print the state of a job."""


@dataclass(frozen=True, kw_only=True)
class LogsOptions(JobOptions):
    """Print the log of a job."""

    follow: bool = option(False, "print the log until the job has ended, and exit with the job's exit code")


@dataclass(frozen=True, kw_only=True)
class StopOptions(JobOptions, OutputOptions):
    """Stop a job. To resume its run, submit it again with the same options."""


class JobStillRunningError(Exception):
    """A job did not end in time after a request to stop."""

    code = "E-CLUSTER"


def follow(client: "JobClient", job: str) -> int:
    """Print the log of a job on stderr and the result in it on stdout; return the exit code of the job."""
    log, printed = "", 0

    def write(text: str) -> None:
        nonlocal log, printed
        log += text
        end = log.find(RESULT_BEGINS)
        lines = log[printed : end if end >= 0 else log.rfind("\n") + 1]
        print_stderr(lines, end="")
        printed += len(lines)

    try:
        ended = client.follow(job, write)
    except KeyboardInterrupt:
        at = f"--address {client.url}"
        print_stderr(
            f"\njob {job} continues. To follow it: python -m jobs.submit logs {job} --follow {at}"
            f"\nTo stop it: python -m jobs.submit stop {job} {at}"
        )
        return exit_codes.INTERRUPTED
    before, marker, result = log[printed:].partition(RESULT_BEGINS)
    result, _, after = result.partition(RESULT_ENDS)
    print_stderr(before + after.lstrip("\n"), end="")
    if marker:
        print_result(result)
    print_stderr(f"job {job}: {ended.status.lower()}")
    return ended.exit_code


def show_list(options: ListOptions) -> CommandResult:
    jobs = client_of(options).jobs()
    text = _table(jobs) if jobs else "no jobs have been submitted"
    return CommandResult([asdict(job) for job in jobs], [text], json=options.json)


def show_status(options: StatusOptions) -> CommandResult:
    return _result(client_of(options).job(_id_of(options)), options)


def show_logs(options: LogsOptions) -> int:
    client, job = client_of(options), _id_of(options)
    if options.follow:
        return follow(client, job)
    print_result(client.log(job).rstrip("\n"))
    return exit_codes.DONE


def stop(options: StopOptions) -> CommandResult:
    client, name = client_of(options), _id_of(options)
    client.stop(name)
    deadline = time.monotonic() + STOP_SECONDS
    while not (job := client.job(name)).ended:
        if time.monotonic() > deadline:
            expected = f"expected job {name} to end within {STOP_SECONDS:.0f} s"
            raise JobStillRunningError(f"{expected}, but it is still running; see its log, or stop it again")
        time.sleep(0.2)
    return _result(job, options)


def client_of(options: ServerOptions) -> "JobClient":
    from cluster.job_server import JobClient, url_of

    return JobClient(url_of(options.address))


def _result(job: "Job", options: OutputOptions) -> CommandResult:
    return CommandResult(asdict(job), [_table([job])], json=options.json)


def _table(jobs: Sequence["Job"]) -> str:
    rows = []
    for job in jobs:
        code = f" ({job.driver_exit_code})" if job.driver_exit_code else ""
        started = text_of(datetime.fromtimestamp(job.began, UTC)) if job.began else "not started"
        rows.append([job.id, f"{job.status.lower()}{code}", started, job.command])
    return table(["job", "status", "started", "command"], rows)


def _id_of(options: JobOptions) -> str:
    if options.job is None or not re.fullmatch(r"[\w.-]+", options.job):
        given = options.job or ""
        raise UsageError(f"expected the id of a job, got {given!r}; `python -m jobs.submit list` lists all")
    return options.job
