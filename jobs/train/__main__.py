"""`python -m jobs.train`: train models on a cluster. Progress goes to stderr, the result to stdout.

`jobs.search` shares all but the work itself: checking the options, beginning or resuming a run, printing its result.
"""

import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from msgspec import structs

from jobs import SOURCE_FOLDERS, begin_of_command
from jobs.console import exit_codes
from jobs.console.exit_codes import UsageError
from jobs.console.options import parse
from jobs.console.output import CommandResult, entry_point, log_to_stderr, print_result
from jobs.console.terminal import step
from jobs.console.values import existing_folder
from jobs.train.commands import configuration, resume_command, stored_command
from jobs.train.options import TrainOptions
from jobs.train.plan import AnyPlan, Plan, require_trusted_code
from mnist_lib.data.sources.availability import check_availability
from mnist_lib.environment import code_version, moment_of, now_text, steady_time
from mnist_lib.errors import DataMissingError
from mnist_lib.model_file import trust
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.storage import is_url, open_storage
from mnist_lib.run_documents import Summary
from mnist_lib.store.opening import open_run, run_to_resume
from mnist_lib.store.runs import REPORT, RunFolder, check_writable
from mnist_lib.store.versions import version_folder

if TYPE_CHECKING:
    from rich.console import RenderableType

    from jobs.train.run import Run
log = logging.getLogger("jobs.train")  # __name__ is "__main__" under `python -m`

OPTIONS = {"": TrainOptions}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    begin = begin_of_command()
    plan = checked_plan(Plan, TrainOptions, arguments, begin)
    options = plan.options
    if options.plan:
        with step("loading Ray", shown=not options.quiet):
            from cluster.session import in_submitted_job
            from jobs.train.planning import forecast
        expected = forecast(plan)
        return CommandResult(expected.document(), expected.lines(), json=options.json, marked=in_submitted_job())
    return run_job(plan, begin, lambda run: run.train())


def checked_plan(plan_type: type[AnyPlan], kind: type[TrainOptions], arguments: Sequence[str], begin: float) -> AnyPlan:
    """Return the plan of a command line, checked without importing anything slow.

    Args:
        begin: the value of `steady_time()` when the command began.
    """
    options: TrainOptions = parse(kind.COMMAND, kind, arguments)
    if options.resume is not None:
        print_result(stored_command(options.resume, options.storage, [kind], arguments))
        raise UsageError("resume: nothing was run; check the printed command, its files and addresses, then paste it")
    log_to_stderr(verbose=options.verbose, quiet=options.quiet)
    plan = plan_type.of(options)
    require_trusted_code(plan, arguments)
    plan.check()
    _check_data_dir(options)
    require_time_left(plan, begin)
    return plan


def run_job(
    plan: AnyPlan,
    begin: float,
    work: "Callable[[Run[AnyPlan]], Summary]",
    more_lines: Callable[[Summary], Sequence[str]] = lambda summary: (),
) -> CommandResult:
    """Begin or resume the run, do the work unless it is done, and return the result.

    Args:
        begin: as in `checked_plan`.
        work: trains, and returns the summary.
        more_lines: returns the lines that follow the lines about models in the result for people.
    """
    options = plan.options
    with step("loading Ray", shown=not options.quiet):
        from cluster.session import in_submitted_job
        from jobs.train.run import finish, run_on_cluster
    submitted = in_submitted_job()
    with step("checking the storage", shown=not options.quiet):
        objects = _open_for_writing(options.storage, submitted)
    code = code_version(SOURCE_FOLDERS)
    opened = open_run(
        objects,
        options.run_name,
        dataset=options.data().name,
        terms=plan.terms(code),
        configuration=yaml.safe_dump(configuration(options), sort_keys=False),
        command=options.COMMAND,
        is_final=lambda error: exit_codes.is_final(getattr(error, "code", "")),
    )
    with opened as folder:
        command = shlex.join(resume_command(options, folder.run))
        advice = f"resume with: {'the same submission' if submitted else command}"
        summary = folder.summary()
        if summary is None:
            _check_data(options)
            trust(plan.calls.values())
            with run_on_cluster(plan, folder, code, begin, advice) as run:
                summary = work(run)
            seconds = steady_time() - begin  # with the report and Ray's end
            shown = structs.replace(summary, timing=structs.replace(summary.timing, wall_seconds=seconds))
        else:
            log.info("run %s is complete; for another run, use another --run-name", folder.run)
            finish(folder, summary, report=options.report)
            shown = summary
    return CommandResult(
        summary,
        [*result_lines(shown, folder), *more_lines(shown)],
        _exit_code(summary, options),
        json=options.json,
        afterwards=partial(_require_success, summary),
        marked=submitted,
    )


def _check_data_dir(options: TrainOptions) -> None:
    """Raise UsageError if the data folder is not on this machine. `jobs.submit` trains elsewhere and skips it."""
    if options.data_dir is not None:
        try:
            existing_folder(options.data_dir)
        except ValueError as error:
            raise UsageError(f"data_dir: {error}") from None


def _check_data(options: TrainOptions) -> None:
    """Raise DataError within seconds if a run could not get its dataset, which is prepared on this machine."""
    data = options.data()
    try:
        check_availability(data)
    except DataMissingError as error:
        hint = "" if data.entry is None else ", or use --dataset mnist-mini, which needs neither"
        raise DataMissingError(f"{error}{hint}") from error


def _open_for_writing(storage: str, submitted: bool) -> Objects:
    """Return the storage. Raises StoreError before anything starts if it cannot be written."""
    if submitted and not is_url(storage) and not Path(storage).is_absolute():
        raise UsageError(
            "storage: expected an absolute path, since the working folder of a submitted job is deleted"
            f", got {storage}; use --storage /PATH"
        )
    objects = open_storage(storage)
    check_writable(objects)
    return objects


def result_lines(summary: Summary, folder: RunFolder) -> list["RenderableType"]:
    from mnist_lib.report.texts import result_tables

    lines = [f"Run: {folder.where}"]
    if folder.has(REPORT):
        lines.append(f"Report: {folder.where}/{REPORT}")
    for name, model in summary.models.items():
        where = folder.objects.where(version_folder(name, model.version))
        champion = "the champion" if model.champion else "not the champion"
        lines.append(f"{name}@{model.version} (trial {model.best_trial}): {where}")
        lines.append(f"  It is {champion}: {model.promotion}")
    return [*result_tables(summary), "", *lines]


def _exit_code(summary: Summary, options: TrainOptions) -> int:
    if summary.dataset.objections and options.promote != "never":
        return exit_codes.REFUSED
    return exit_codes.SOME_FAILED if summary.failed or summary.dataset.newly_damaged else exit_codes.DONE


def _require_success(summary: Summary) -> None:
    """Raise TrainingError if every trial failed."""
    failed = summary.failed
    if len(failed) < len(summary.trials):
        return
    codes = {trial.error.code for trial in failed}
    others = f" (1 of {len(failed)} trials that failed; see summary.json)" if len(failed) > 1 else ""
    message = f"{failed[0].id}: {failed[0].error.message}{others}"
    raise exit_codes.TrainingError(message, *(codes if len(codes) == 1 else ()))


def require_time_left(plan: Plan, now: float) -> None:
    """Raise UsageError if --finish-by has passed, unless there is a run to resume, which then ends early.

    Args:
        now: Unix time.
    """
    options = plan.options
    if options.finish_by is None or moment_of(options.finish_by).timestamp() > now:
        return
    terms = plan.terms(code_version(SOURCE_FOLDERS))
    if run_to_resume(open_storage(options.storage), options.run_name, terms) is None:
        raise UsageError(f"finish_by: expected a time in the future, got {options.finish_by}; it is {now_text()} now")


if __name__ == "__main__":
    sys.exit(main())
