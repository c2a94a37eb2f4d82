"""Jobs that were submitted: follow one, its log, its end; the commands `list`, `status`, `logs`, `stop`."""

import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobs import exits
from jobs.submit_options import JobOptions, ListOptions, LogsOptions, ServerOptions, StatusOptions, StopOptions

if TYPE_CHECKING:
    from cluster.job_client import Job, JobClient

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
        end = log.find(exits.RESULT_BEGINS)
        told = log[printed : end if end >= 0 else log.rfind("\n") + 1]
        exits.tell(told, end="")
        printed += len(told)

    try:
        ended = client.follow(job, write)
    except KeyboardInterrupt:
        at = f"--address {client.url}"
        exits.tell(
            f"\njob {job} goes on; follow it: python -m jobs.submit logs {job} --follow {at}; end it: ... stop {job}"
        )
        return exits.INTERRUPTED
    before, marked, result = log[printed:].partition(exits.RESULT_BEGINS)
    result, _, after = result.partition(exits.RESULT_ENDS)
    exits.tell(before + after.lstrip("\n"), end="")
    if marked:
        exits.print_result(result)
    exits.tell(f"job {job}: {ended.status.lower()}")
    return ended.exit_code


def show_status(options: StatusOptions) -> int:
    job = client_of(options).job(_named(options))
    exits.print_result(json.dumps(asdict(job), indent=2) if options.json else _line(job))
    return exits.DONE


def show_logs(options: LogsOptions) -> int:
    client, job = client_of(options), _named(options)
    if options.follow:
        return follow(client, job)
    exits.print_result(client.log(job).rstrip("\n"))
    return exits.DONE


def stop(options: StopOptions) -> int:
    client, name = client_of(options), _named(options)
    client.stop(name)
    deadline = time.monotonic() + STOP_SECONDS
    while not (job := client.job(name)).ended:
        if time.monotonic() > deadline:
            raise JobRunsOnError(f"job {name} has not ended within {STOP_SECONDS:.0f} s; see its log, and ask again")
        time.sleep(0.2)
    exits.print_result(json.dumps(asdict(job), indent=2) if options.json else _line(job))
    return exits.DONE


def show_list(options: ListOptions) -> int:
    jobs = client_of(options).jobs()
    text = "\n".join(map(_line, jobs)) or "no job was submitted"
    exits.print_result(json.dumps([asdict(job) for job in jobs], indent=2) if options.json else text)
    return exits.DONE


def _line(job: "Job") -> str:
    began = datetime.fromtimestamp(job.began, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if job.began else "not begun"
    code = f" ({job.driver_exit_code})" if job.driver_exit_code else ""
    return f"{job.id}  {job.status.lower()}{code}  {began}  {job.command}"


def _named(options: JobOptions) -> str:
    if options.job is None or not re.fullmatch(r"[\w.-]+", options.job):
        raise exits.UsageError(f"expected a job's id, got {options.job!r}; `python -m jobs.submit list` shows all")
    return options.job


def client_of(options: ServerOptions) -> "JobClient":
    from cluster.job_client import JobClient, url_of

    return JobClient(url_of(options.address))
