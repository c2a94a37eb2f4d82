"""Jobs that were submitted: follow one, its log, its end; the commands `list`, `status`, `logs`, `stop`."""

import json
import re
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobs.console import exit_codes
from jobs.console.options import option
from jobs.console.output import RESULT_BEGINS, RESULT_ENDS, print_result, print_stderr

if TYPE_CHECKING:
    from cluster.connection.job_server import Job, JobClient


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


STOP_SECONDS = 30.0


class JobRunsOnError(Exception):
    """It was asked to end, and has not."""

    code = "E-CLUSTER"


def follow(client: "JobClient", job: str) -> int:
    """The log goes to stderr, the result in it to stdout."""
    log, printed = "", 0

    def write(text: str) -> None:
        nonlocal log, printed
        log += text
        end = log.find(RESULT_BEGINS)
        told = log[printed : end if end >= 0 else log.rfind("\n") + 1]
        print_stderr(told, end="")
        printed += len(told)

    try:
        ended = client.follow(job, write)
    except KeyboardInterrupt:
        at = f"--address {client.url}"
        print_stderr(
            f"\njob {job} goes on; follow it: python -m jobs.submit logs {job} --follow {at}; end it: ... stop {job}"
        )
        return exit_codes.INTERRUPTED
    before, marked, result = log[printed:].partition(RESULT_BEGINS)
    result, _, after = result.partition(RESULT_ENDS)
    print_stderr(before + after.lstrip("\n"), end="")
    if marked:
        print_result(result)
    print_stderr(f"job {job}: {ended.status.lower()}")
    return ended.exit_code


def show_status(options: StatusOptions) -> int:
    job = client_of(options).job(_named(options))
    print_result(json.dumps(asdict(job), indent=2) if options.json else _line(job))
    return exit_codes.DONE


def show_logs(options: LogsOptions) -> int:
    client, job = client_of(options), _named(options)
    if options.follow:
        return follow(client, job)
    print_result(client.log(job).rstrip("\n"))
    return exit_codes.DONE


def stop(options: StopOptions) -> int:
    client, name = client_of(options), _named(options)
    client.stop(name)
    deadline = time.monotonic() + STOP_SECONDS
    while not (job := client.job(name)).ended:
        if time.monotonic() > deadline:
            raise JobRunsOnError(f"job {name} has not ended within {STOP_SECONDS:.0f} s; see its log, and ask again")
        time.sleep(0.2)
    print_result(json.dumps(asdict(job), indent=2) if options.json else _line(job))
    return exit_codes.DONE


def show_list(options: ListOptions) -> int:
    jobs = client_of(options).jobs()
    text = "\n".join(map(_line, jobs)) or "no job was submitted"
    print_result(json.dumps([asdict(job) for job in jobs], indent=2) if options.json else text)
    return exit_codes.DONE


def _line(job: "Job") -> str:
    began = datetime.fromtimestamp(job.began, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if job.began else "not begun"
    code = f" ({job.driver_exit_code})" if job.driver_exit_code else ""
    return f"{job.id}  {job.status.lower()}{code}  {began}  {job.command}"


def _named(options: JobOptions) -> str:
    if options.job is None or not re.fullmatch(r"[\w.-]+", options.job):
        raise exit_codes.UsageError(f"expected a job's id, got {options.job!r}; `python -m jobs.submit list` shows all")
    return options.job


def client_of(options: ServerOptions) -> "JobClient":
    from cluster.connection.job_server import JobClient, url_of

    return JobClient(url_of(options.address))
