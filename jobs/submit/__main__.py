"""`python -m jobs.submit -- OPTIONS`: run jobs.train or jobs.search on a cluster from a machine outside it."""

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import SOURCE_FOLDERS
from jobs.console.exit_codes import UsageError
from jobs.console.options import parse, split_at_dashes, split_config, split_subcommand
from jobs.console.output import CommandResult, entry_point, print_stderr
from jobs.search.options import SearchOptions, job_options, require_after_dashes
from jobs.submit import following
from jobs.submit.following import ServerOptions, SubmitOptions, client_of, follow
from jobs.train.options import TrainOptions
from mnist_lib.data.corrections import LABELS, LabelsFile
from mnist_lib.data.listing import list_folder
from mnist_lib.model_file import trust, with_folder
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.storage import check_storage, is_url
from mnist_lib.store.runs import check_run_name
from mnist_lib.wording import counted

if TYPE_CHECKING:
    from cluster.job_server import JobClient

RUN = "mnist-run"  # key of the run's name in the metadata of a job
SENT = "sent"  # the folder, beside the code, for files and pictures from this machine
MAX_SENT_BYTES = 100_000_000  # what is sent is held in the memory of the head


class RunIsBusyError(Exception):
    """Another job is working on the run."""

    code = "E-BUSY"


COMMANDS: dict[str, tuple[type[ServerOptions], Callable[[Any], CommandResult | int]]] = {
    "list": (following.ListOptions, following.show_list),
    "status": (following.StatusOptions, following.show_status),
    "logs": (following.LogsOptions, following.show_logs),
    "stop": (following.StopOptions, following.stop),
}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult | int:
    about = {"": SubmitOptions.__doc__, **{name: kind.__doc__ for name, (kind, _) in COMMANDS.items()}}
    name, others = split_subcommand("python -m jobs.submit", about, arguments)
    if name:
        kind, run = COMMANDS[name]
        return run(parse(f"jobs.submit {name}", kind, others))
    own, train = split_at_dashes(arguments)
    require_after_dashes(own, SubmitOptions)
    options: SubmitOptions = parse("jobs.submit", SubmitOptions, own)
    return _submit(options, train)


def _submit(options: SubmitOptions, train: Sequence[str]) -> CommandResult | int:
    given = _check(train)
    run, (words, own) = given.run_name or given.resume, words_of_job(given, train)
    client = client_of(options)
    entrypoint = shlex.join(["python", "-m", given.COMMAND, *words])
    job = _job_in_progress(client, run, entrypoint) if run else None
    job = job or _send(client, run, entrypoint, own)
    trust(given.calls.values())
    if not options.wait:
        return CommandResult({"job": job}, [job], json=options.json)
    return follow(client, job)


def _job_in_progress(client: "JobClient", run: str, entrypoint: str) -> str | None:
    """Return the id of the unfinished job of a run, or None. Raises RunIsBusyError if its command differs."""
    for job in client.jobs():
        if job.metadata.get(RUN) == run and not job.ended:
            if job.command != entrypoint:
                hint = "wait for it, stop it, or use another --run-name"
                raise RunIsBusyError(
                    f"run {run} is in progress as job {job.id}, with a different command: {job.command}; {hint}"
                )
            print_stderr(f"run {run} is already in progress, as job {job.id}")
            return job.id
    return None


def _send(client: "JobClient", run: str | None, entrypoint: str, own: Mapping[str, Path | bytes]) -> str:
    """Submit the job and return its id. The jobs of a run are <run>.1, <run>.2 and so on."""
    from cluster.job_server import JobExistsError

    name = None
    if run:
        ids = [job.id for job in client.jobs() if re.fullmatch(rf"{re.escape(run)}\.\d+", job.id)]
        name = f"{run}.{max((int(job.rpartition('.')[2]) for job in ids), default=0) + 1}"
    try:
        sent = {folder.name: folder for folder in SOURCE_FOLDERS}
        job = client.submit(name, entrypoint, {**sent, **own}, {RUN: run} if run else {})
    except JobExistsError:  # the same run was submitted at the same time
        existing = _job_in_progress(client, str(run), entrypoint)
        if existing is None:
            raise
        return existing
    size = sum(f.stat().st_size for folder in SOURCE_FOLDERS for f in folder.rglob("*.*") if f.suffix != ".pyc")
    more = f" and {counted(len(own), 'file')} ({_size_of(own) / 1e6:.1f} MB)" if own else ""
    print_stderr(f"sent {size / 1e6:.1f} MB of code{more} to {client.url} as job {job}")
    return job


def words_of_job(options: TrainOptions, train: Sequence[str]) -> tuple[list[str], dict[str, Path | bytes]]:
    """Return the command line of the job, and the files of this machine that it needs, by their paths in the job."""
    flags, own = _own_files(options)
    files, words = split_config(train)
    contents = [Path(file).read_bytes() for file in files]
    configs = {f"{SENT}/{sha256(content).hexdigest()[:12]}.yaml": content for content in contents}
    flags += ["--trust"] if options.calls else []  # it was checked here, with the arguments in these files
    return [*(f"--config={name}" for name in configs), *words, *flags], own | configs  # the last value counts


def _own_files(options: TrainOptions) -> tuple[list[str], dict[str, Path | bytes]]:
    """Return the files that the job needs from this machine, by their paths in the job, and the flags for them.

    A folder of pictures is on this machine if its path is relative; otherwise it is on the cluster's head.
    """
    flags, own = [], dict[str, Path | bytes]()
    if options.builder_file is not None:
        own[f"{SENT}/{options.builder_file.name}"] = options.builder_file.content
        flags.append(f"--tfds-import={SENT}/{options.builder_file.name}")
    if isinstance(options, SearchOptions) and options.space is not None:
        own[f"{SENT}/{options.space.name}"] = options.space
        flags.append(f"--space={SENT}/{options.space.name}")
    if options.model_files:
        for file in {file.path: file for file in options.model_files.values()}.values():
            if f"{SENT}/{file.name}" in own:
                raise UsageError(f"models: expected files with different names to send, got two named {file.name}")
            own[f"{SENT}/{file.name}"] = file.content
        flags.append("--models=" + ",".join(with_folder(model, SENT) for model in options.models))
    data = options.data()
    if data.folder is not None and not Path(options.dataset).is_absolute():
        paths = [file.path for file in list_folder(data.folder).files]
        paths += [LABELS] if LabelsFile(LocalObjects(data.folder)).content() else []  # refuses a link
        own |= {f"{SENT}/{data.name}/{path}": data.folder / path for path in paths}
        flags.append(f"--dataset={SENT}/{data.name}")
    if _size_of(own) > MAX_SENT_BYTES:
        raise UsageError(
            f"dataset: expected at most {MAX_SENT_BYTES / 1e6:.0f} MB to send with the job, got"
            f" {_size_of(own) / 1e6:.0f} MB; copy the pictures to the cluster's head, and name them there, as in"
            " --dataset /PATH"
        )
    return flags, own


def _size_of(own: Mapping[str, Path | bytes]) -> int:
    return sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in own.values())


def _check(train: Sequence[str]) -> TrainOptions:
    """Return the options of the job. Refuse those that the job itself would refuse, and code that is not trusted."""
    options = job_options("jobs.submit --", train)
    options.require_trusted(train)
    options.grid()
    options.check()
    check_storage(options.storage)
    if not is_url(options.storage) and not Path(options.storage).is_absolute():
        raise UsageError(
            f"storage: expected a URL, or an absolute path on the cluster's head, got {options.storage!r}, which is"
            " deleted with the working folder of the job; add --storage URL|/PATH after --"
        )
    if options.address is not None:
        raise UsageError(
            "address: expected none after --, since the job runs on the cluster that it is sent to; omit --address"
        )
    run = options.run_name or options.resume
    if run is not None:
        check_run_name(run)
    return options


if __name__ == "__main__":
    sys.exit(main())
