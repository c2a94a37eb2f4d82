"""`python -m jobs.submit -- OPTIONS`: run jobs.train or jobs.search on a cluster from a machine outside it."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.exit_codes import UsageError
from jobs.console.options import Options, parse, split_at_dashes, split_config
from jobs.console.output import RESULT_BEGINS, RESULT_ENDS, CommandResult, entry_point, print_result, print_stderr
from jobs.train.commands import job_options, plan_of, require_after_dashes
from jobs.train.plan import Plan, require_trusted_code
from mnist_lib.data.corrections import LABELS, LabelsFile
from mnist_lib.data.groups import BY_FILE
from mnist_lib.data.sources.listing import listing_of
from mnist_lib.model_file import trust, with_folder
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.storage import is_url
from mnist_lib.settings import option
from mnist_lib.wording import counted

if TYPE_CHECKING:
    from cluster.job_server import JobClient
    from mnist_lib.models.pretrained import WeightsFile

RUN = "mnist-run"  # key of the run's name in the metadata of a job
SENT = "sent"  # the folder, beside the code, for files and pictures from this machine
MAX_SENT_BYTES = 100_000_000  # what is sent is held in the memory of the head


class RunIsBusyError(Exception):
    """Another job is working on the run."""

    code = "E-BUSY"


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(Options):
    """Send this code to a Ray cluster and run jobs.train there, with the options after "--", or jobs.search, if --vary
    is among them. Print the log until the job has ended, then its result, and exit with its exit code. Absolute paths
    after "--" are on the cluster's head. `ray job list`, `ray job logs` and `ray job stop` do the rest."""

    USAGE_TAIL = "[OPTIONS] -- TRAIN_OPTIONS"

    address: str | None = option(
        None, "URL of the Ray dashboard (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS or http://127.0.0.1:8265)", "URL"
    )
    wait: bool = option(True, "wait until the job has ended; --no-wait prints its id and exits (default: on)")
    json: bool = option(False, "with --no-wait: print the id as JSON (for the result as JSON, give --json after --)")


OPTIONS = {"": SubmitOptions}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult | int:
    from cluster.job_server import JobClient, url_of

    own, flags = split_at_dashes(arguments)
    require_after_dashes(own, SubmitOptions)
    options: SubmitOptions = parse("jobs.submit", SubmitOptions, own)
    plan = _check(flags)
    run = plan.options.run_name
    words, files = words_of_job(plan, flags)
    client = JobClient(url_of(options.address))
    entrypoint = shlex.join(["python", "-m", plan.options.COMMAND, *words])
    job = (_job_in_progress(client, run, entrypoint) if run else None) or _send(client, run, entrypoint, files)
    trust(plan.calls.values())
    if not options.wait:
        return CommandResult({"job": job}, [job], json=options.json)
    return follow(client, job)


def _job_in_progress(client: "JobClient", run: str, entrypoint: str) -> str | None:
    """Return the id of the unfinished job of a run, or None. Raises RunIsBusyError if its command differs."""
    for name, job in client.jobs().items():
        if (job.metadata or {}).get(RUN) == run and not job.status.is_terminal():
            if job.entrypoint != entrypoint:
                hint = "wait for it, stop it, or use another --run-name"
                raise RunIsBusyError(
                    f"run {run} is in progress as job {name}, with a different command: {job.entrypoint}; {hint}"
                )
            print_stderr(f"run {run} is already in progress, as job {name}")
            return name
    return None


def _send(client: "JobClient", run: str | None, entrypoint: str, own: Mapping[str, Path | bytes]) -> str:
    """Submit the job and return its id. The jobs of a run are <run>.1, <run>.2 and so on."""
    from cluster.job_server import JobExistsError

    name = None
    if run:
        ids = [job for job in client.jobs() if re.fullmatch(rf"{re.escape(run)}\.\d+", job)]
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


def words_of_job(plan: Plan, train: Sequence[str]) -> tuple[list[str], dict[str, Path | bytes]]:
    """Return the command line of the job, and the files of this machine that it needs, by their paths in the job."""
    flags, own = _own_files(plan)
    files, words = split_config(train)
    contents = [Path(file).read_bytes() for file in files]
    configs = {f"{SENT}/{sha256(content).hexdigest()[:12]}.yaml": content for content in contents}
    flags += ["--trust"] if plan.calls else []  # trust was checked here, also for code that --config files name
    return [*(f"--config={name}" for name in configs), *words, *flags], own | configs  # the last value counts


def _own_files(plan: Plan) -> tuple[list[str], dict[str, Path | bytes]]:
    """Return the flags for the files that the job needs from this machine, and these files by their paths in the job.

    A folder of pictures is on this machine if its path is relative; otherwise it is on the cluster's head.
    """
    options = plan.options
    flags = list[str]()
    own = dict[str, Path | bytes]()
    if options.builder_file is not None:
        own[f"{SENT}/{options.builder_file.name}"] = options.builder_file.content
        flags.append(f"--tfds-import={SENT}/{options.builder_file.name}")
    if plan.files:
        for file in {file.path: file for file in plan.files.values()}.values():
            if f"{SENT}/{file.name}" in own:
                raise UsageError(f"models: expected files with different names to send, got two named {file.name}")
            own[f"{SENT}/{file.name}"] = file.content
        flags.append("--models=" + ",".join(with_folder(model, SENT) for model in options.models))
    sent: dict[str, WeightsFile] = {}
    for files in plan.weights.values():
        sent |= files
    for name, weights in sent.items():
        own[f"{SENT}/{name}{weights.suffix}"] = weights.content
        flags.append(f"--weights={name}={SENT}/{name}{weights.suffix}")
    data = options.data()
    if data.folder is not None and not Path(options.dataset).is_absolute():
        listing = listing_of(data)
        paths = [*listing.paths, *([] if listing.table is None else [listing.table])]
        paths += [LABELS] if LabelsFile(LocalObjects(data.folder)).content() else []  # refuses a link
        paths += [BY_FILE] if data.group_by == BY_FILE else []  # a link is refused in `list_folder`
        own |= {f"{SENT}/{data.name}/{path}": data.folder / path for path in paths}
        flags.append(f"--dataset={SENT}/{data.name}" + (f"/{data.table}" if data.table else ""))
    if _size_of(own) > MAX_SENT_BYTES:
        raise UsageError(
            f"dataset, weights: expected at most {MAX_SENT_BYTES / 1e6:.0f} MB of files to send with the job, got"
            f" {_size_of(own) / 1e6:.0f} MB; copy pictures to the cluster's head, and name them there, as in"
            " --dataset /PATH, or start from the weights of a stored version with --init-from"
        )
    return flags, own


def _size_of(own: Mapping[str, Path | bytes]) -> int:
    return sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in own.values())


def _check(flags: Sequence[str]) -> Plan:
    """Return the plan of the job. Refuse plans that the job itself would refuse, and untrusted code."""
    options = job_options("jobs.submit --", flags)
    plan = plan_of(options)
    require_trusted_code(plan, flags)
    plan.check()
    if not is_url(options.storage) and not Path(options.storage).is_absolute():
        raise UsageError(
            f"storage: expected a URL, or an absolute path on the cluster's head, got {options.storage!r}, which is"
            " deleted with the working folder of the job; add --storage URL|/PATH after --"
        )
    if options.resume is not None:
        raise UsageError("resume: expected none after --, since it only prints a command; submit the same job again")
    if options.address is not None:
        raise UsageError(
            "address: expected none after --, since the job runs on the cluster that it is sent to; omit --address"
        )
    return plan


def follow(client: "JobClient", job: str) -> int:
    """Print the log of a job on stderr and the result in it on stdout; return the exit code of the job."""
    from cluster.job_server import exit_code_of

    log = ""
    printed = 0

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
            f"\njob {job} continues. To follow it: ray job logs {job} --follow {at}"
            f"\nTo stop it: ray job stop {job} {at}"
        )
        return exit_codes.INTERRUPTED
    before, marker, result = log[printed:].partition(RESULT_BEGINS)
    result, _, after = result.partition(RESULT_ENDS)
    print_stderr(before + after.lstrip("\n"), end="")
    if marker:
        print_result(result)
    print_stderr(f"job {job}: {ended.status.lower()}")
    return exit_code_of(ended)


if __name__ == "__main__":
    sys.exit(main())
