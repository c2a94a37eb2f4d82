"""`python -m jobs.submit -- TRAIN OPTIONS`: the main job on a cluster, from a machine that is not part of it."""

import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.options import flags_of, parse, split_at_dashes, split_subcommand
from jobs.console.output import print_result, print_stderr, run_command
from jobs.submit import following as submitted
from jobs.submit.following import (
    ListOptions,
    LogsOptions,
    ServerOptions,
    StatusOptions,
    StopOptions,
    SubmitOptions,
    client_of,
    follow,
)
from jobs.train.options import TrainOptions
from mnist_lib.store.runs import check_run_name
from mnist_lib.store.storage import check_storage, is_url

if TYPE_CHECKING:
    from cluster.connection.job_server import JobClient

RUN = "mnist-run"  # in a job's metadata


class RunIsBusyError(Exception):
    """Another job is at it."""

    code = "E-BUSY"


COMMANDS: dict[str, tuple[type[ServerOptions], Callable[[Any], int]]] = {
    "list": (ListOptions, submitted.show_list),
    "status": (StatusOptions, submitted.show_status),
    "logs": (LogsOptions, submitted.show_logs),
    "stop": (StopOptions, submitted.stop),
}


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(command, sys.argv[1:] if arguments is None else arguments)


def command(arguments: Sequence[str]) -> int:
    about = {"": SubmitOptions.__doc__, **{name: kind.__doc__ for name, (kind, _) in COMMANDS.items()}}
    name, others = split_subcommand("python -m jobs.submit", about, arguments)
    if name:
        kind, run = COMMANDS[name]
        return run(parse(f"jobs.submit {name}", kind, others))
    own, train = split_at_dashes(arguments)
    options: SubmitOptions = parse("jobs.submit", SubmitOptions, own)
    return _submit(options, with_config_inline(train))


def _submit(options: SubmitOptions, train: Sequence[str]) -> int:
    run = _check(train)
    client = client_of(options)
    entrypoint = shlex.join(["python", "-m", "jobs.train", *train])
    job = _running(client, run, entrypoint) if run else None
    if job is None:
        job = _send(client, run, entrypoint)
    if not options.wait:
        print_result(json.dumps({"job": job}) if options.json else job)
        return exit_codes.DONE
    return follow(client, job)


def _running(client: "JobClient", run: str, entrypoint: str) -> str | None:
    """The job that is at that run.

    Raises:
        RunIsBusyError: it does something else.
    """
    for job in client.jobs():
        if job.metadata.get(RUN) == run and not job.ended:
            if job.command != entrypoint:
                raise RunIsBusyError(f"run {run} is on its way as job {job.id}, by another command: {job.command}")
            print_stderr(f"run {run} is on its way already, as job {job.id}")
            return job.id
    return None


def _send(client: "JobClient", run: str | None, entrypoint: str) -> str:
    from cluster.connection.job_server import JobExistsError

    name = None
    if run:
        numbers = [
            int(job.id.rpartition(".")[2]) for job in client.jobs() if re.fullmatch(rf"{re.escape(run)}\.\d+", job.id)
        ]
        name = f"{run}.{max(numbers, default=0) + 1}"
    try:
        job = client.submit(name, entrypoint, SOURCE_FOLDERS, {RUN: run} if run else {})
    except JobExistsError:  # another one was sent at the same time
        running = _running(client, str(run), entrypoint)
        if running is None:
            raise
        return running
    size = sum(
        file.stat().st_size for folder in SOURCE_FOLDERS for file in folder.rglob("*.*") if file.suffix != ".pyc"
    )
    print_stderr(f"sent {size / 1e6:.1f} MB of code to {client.url} as job {job}")
    return job


def _check(train: Sequence[str]) -> str | None:
    """Refuses here what the job would be refused for there -> the run's name, if it is given."""
    options: TrainOptions = parse("jobs.submit --", TrainOptions, train)
    options.trials()
    options.check()
    check_storage(options.storage)
    if not is_url(options.storage) and not Path(options.storage).is_absolute():
        raise exit_codes.UsageError(
            f"storage: expected a URL, or an absolute path on the cluster's head, got {options.storage!r}; the working"
            " folder of a job is deleted. Add --storage URL|/PATH after --"
        )
    if options.address is not None:
        raise exit_codes.UsageError("address: the job runs on the cluster that it is sent to; leave out --address")
    run = options.run_name or options.resume
    if run is not None:
        check_run_name(run)
    return run


def with_config_inline(train: Sequence[str]) -> list[str]:
    """The file of --config is here, not there: its options take its place."""
    words, flags = iter(train), []
    for word in words:
        name, given, file = word.partition("=")
        if name != "--config":
            flags.append(word)
            continue
        parse("jobs.submit --", TrainOptions, ["--config", path := file if given else next(words, "")])
        flags.extend(flags_of(yaml.safe_load(Path(path).read_text()) or {}))
    return flags


if __name__ == "__main__":
    sys.exit(main())
