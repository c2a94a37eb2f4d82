"""`python -m jobs.submit -- TRAIN OPTIONS`: the main job on a cluster, from a machine that is not part of it."""

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobs import exits
from jobs.command_line import option, parse
from jobs.options import TrainOptions
from jobs.packages import PACKAGES
from mnist_lib.catalog import require_known
from mnist_lib.store.runs import check_run_name
from mnist_lib.store.storage import check_storage, is_url

if TYPE_CHECKING:
    from cluster.job_client import Job, JobClient

URL_HELP = "of the head's dashboard (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS or http://127.0.0.1:8265)"
STOP_SECONDS = 30.0
RUN = "mnist-run"  # in a job's metadata


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    address: str | None = option(None, URL_HELP, str, "URL")
    json: bool = option(False, "print one JSON document instead of text")


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(ServerOptions):
    """Sends this code and the options after "--", which are those of jobs.train, to a cluster; shows the log until the
    job has ended; then prints its result and exits as it did. Paths among them are of the cluster's head."""

    wait: bool = option(True, "until the job has ended; without, its id is printed")


@dataclass(frozen=True, kw_only=True)
class ListOptions(ServerOptions):
    """Every job that was submitted."""


@dataclass(frozen=True, kw_only=True)
class JobOptions(ServerOptions):
    """How a job is, or how it ended."""

    job: str | None = option(None, "its id", str, "JOB", positional=True)


@dataclass(frozen=True, kw_only=True)
class LogsOptions(JobOptions):
    """What a job has printed."""

    follow: bool = option(False, "until it has ended, and exit as it did")


@dataclass(frozen=True, kw_only=True)
class StopOptions(JobOptions):
    """Ends a job; the same submission again goes on from there."""


def main(arguments: Sequence[str] | None = None) -> int:
    return exits.run(command, sys.argv[1:] if arguments is None else arguments)


def command(arguments: Sequence[str]) -> int:
    if arguments and not arguments[0].startswith("-"):
        name, *others = arguments
        require_known("command", name, COMMANDS)
        kind, run = COMMANDS[name]
        return run(parse(f"jobs.submit {name}", kind, others))
    own, train = _split(arguments)
    options: SubmitOptions = parse("jobs.submit", SubmitOptions, own)
    return _submit(options, with_config_inline(train))


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def _submit(options: SubmitOptions, train: Sequence[str]) -> int:
    run = _check(train)
    client = _client(options)
    entrypoint = shlex.join(["python", "-m", "jobs.train", *train])
    earlier = [job for job in client.jobs() if run and job.metadata.get(RUN) == run]
    if earlier and not earlier[-1].ended:
        job = earlier[-1].id
        if earlier[-1].command != entrypoint:
            raise RunIsBusyError(f"run {run} is on its way as job {job}, by another command: {earlier[-1].command}")
        _tell(f"run {run} is on its way already, as job {job}")
    else:
        name = f"{run}.{len(earlier) + 1}" if run else None
        job = client.submit(name, entrypoint, PACKAGES, {RUN: run} if run else {})
        size = sum(file.stat().st_size for folder in PACKAGES for file in folder.rglob("*.*") if file.suffix != ".pyc")
        _tell(f"sent {size / 1e6:.1f} MB of code to {client.url} as job {job}")
    if not options.wait:
        exits.print_result(json.dumps({"job": job}) if options.json else job)
        return exits.DONE
    return _follow(client, job)


def _check(train: Sequence[str]) -> str | None:
    """Refuses here what the job would be refused for there -> the run's name, if it is given."""
    options: TrainOptions = parse("jobs.submit --", TrainOptions, train)
    options.trials()
    options.check()
    check_storage(options.storage)
    if not is_url(options.storage) and not Path(options.storage).is_absolute():
        raise exits.UsageError(
            f"storage: expected a URL, or an absolute path on the cluster's head, got {options.storage!r}; the working"
            " folder of a job is deleted. Add --storage URL|/PATH after --"
        )
    for name in ("address", "chaos"):
        if getattr(options, name) is not None:
            raise exits.UsageError(f"{name}: the job runs on the cluster that it is sent to; leave out --{name}")
    if options.run_name is not None:
        check_run_name(options.run_name)
    return options.run_name or options.resume


def with_config_inline(train: Sequence[str]) -> list[str]:
    """The file of --config is here, not there: its options take its place."""
    words, flags = iter(train), []
    for word in words:
        name, given, file = word.partition("=")
        if name != "--config":
            flags.append(word)
            continue
        parse("jobs.submit --", TrainOptions, ["--config", path := file if given else next(words, "")])
        for key, value in (yaml.safe_load(Path(path).read_text()) or {}).items():
            flag = key.replace("_", "-")
            if isinstance(value, bool):
                flags.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                flags.append(f"--{flag}={_word(value)}")
    return flags


def _word(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    return ",".join(map(str, value)) + ("," if len(value) == 1 else "")  # "4" would be a count


def _follow(client: "JobClient", job: str) -> int:
    """The log goes to stderr, the result in it to stdout."""
    log, printed = "", 0

    def write(text: str) -> None:
        nonlocal log, printed
        log += text
        end = log.find(exits.RESULT_BEGINS)
        told = log[printed : end if end >= 0 else log.rfind("\n") + 1]
        sys.stderr.write(told)
        sys.stderr.flush()
        printed += len(told)

    try:
        ended = client.follow(job, write)
    except KeyboardInterrupt:
        at = f"--address {client.url}"
        _tell(f"\njob {job} goes on; follow it: python -m jobs.submit logs {job} --follow {at}; end it: ... stop {job}")
        return exits.INTERRUPTED
    before, marked, result = log[printed:].partition(exits.RESULT_BEGINS)
    result, _, after = result.partition(exits.RESULT_ENDS)
    sys.stderr.write(before + after.lstrip("\n"))
    if marked:
        exits.print_result(result)
    _tell(f"job {job}: {ended.status.lower()}")
    return ended.exit_code


def show_status(options: JobOptions) -> int:
    job = _client(options).job(_named(options))
    exits.print_result(json.dumps(asdict(job), indent=2) if options.json else _line(job))
    return exits.DONE


def show_logs(options: LogsOptions) -> int:
    client, job = _client(options), _named(options)
    if options.follow:
        return _follow(client, job)
    exits.print_result(client.log(job).rstrip("\n"))
    return exits.DONE


def stop(options: StopOptions) -> int:
    client, name = _client(options), _named(options)
    client.stop(name)
    deadline = time.monotonic() + STOP_SECONDS
    while not (job := client.job(name)).ended and time.monotonic() < deadline:
        time.sleep(0.2)
    exits.print_result(json.dumps(asdict(job), indent=2) if options.json else _line(job))
    return exits.DONE


def show_list(options: ListOptions) -> int:
    jobs = _client(options).jobs()
    text = "\n".join(map(_line, jobs)) or "no job was submitted"
    exits.print_result(json.dumps([asdict(job) for job in jobs], indent=2) if options.json else text)
    return exits.DONE


COMMANDS: dict[str, tuple[type[ServerOptions], Callable[[Any], int]]] = {
    "list": (ListOptions, show_list),
    "status": (JobOptions, show_status),
    "logs": (LogsOptions, show_logs),
    "stop": (StopOptions, stop),
}


def _line(job: "Job") -> str:
    began = datetime.fromtimestamp(job.began, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if job.began else "not begun"
    code = f" ({job.driver_exit_code})" if job.driver_exit_code else ""
    return f"{job.id}  {job.status.lower()}{code}  {began}  {job.command}"


def _named(options: JobOptions) -> str:
    if options.job is None or not re.fullmatch(r"[\w.-]+", options.job):
        raise exits.UsageError(f"expected a job's id, got {options.job!r}; `python -m jobs.submit list` shows all")
    return options.job


def _client(options: ServerOptions) -> "JobClient":
    from cluster.job_client import JobClient, url_of

    return JobClient(url_of(options.address))


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


class RunIsBusyError(Exception):
    """Another job is at it."""

    code = "E-BUSY"


if __name__ == "__main__":
    sys.exit(main())
