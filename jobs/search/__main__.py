"""`python -m jobs.search`: search for good settings. Progress goes to stderr, the result to stdout."""

import json
import logging
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.options import parse
from jobs.console.output import log_to_stderr, print_result, run_command
from jobs.console.terminal import step
from jobs.search.options import LEFT_OUT, SearchOptions
from jobs.train.command import (
    check_data,
    configuration,
    exit_code,
    finish,
    open_for_writing,
    print_result_of_job,
    require_time_left,
    result_text,
    resumed_options,
    trust_files,
)
from mnist_lib.environment import code_version
from mnist_lib.objects.storage import check_storage
from mnist_lib.results import Accuracy
from mnist_lib.store.opening import open_run
from mnist_lib.store.runs import check_run_name
from mnist_lib.wording import counted, percent

log = logging.getLogger("jobs.search")  # __name__ is "__main__" under `python -m`


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(search_command, sys.argv[1:] if arguments is None else arguments)


def search_command(arguments: Sequence[str]) -> int:
    begin = time.time()
    options: SearchOptions = parse("jobs.search", SearchOptions, arguments, LEFT_OUT)
    if options.resume is not None:
        options = resumed_options(options, arguments, LEFT_OUT)
    log_to_stderr(verbose=options.verbose, quiet=options.quiet)
    options.require_trusted(arguments)
    options.check()
    options.check_data_dir()
    check_storage(options.storage)
    if options.run_name is not None:
        check_run_name(options.run_name)
    require_time_left(options, begin)
    if options.plan:
        print_result(json.dumps(plan_document(options), indent=2) if options.json else plan_text(options))
        return exit_codes.DONE
    return _run(options, begin)


def plan_document(options: SearchOptions) -> dict[str, Any]:
    """Return the rungs of a search, and how many configurations and epochs it has."""
    halving = options.halving()
    epochs = halving.ladder.epochs_of(halving.configurations)
    return {
        "configurations": halving.configurations,
        "brackets": halving.brackets,
        "rungs": list(halving.ladder.rungs),
        "epochs": {"search": epochs, "final": options.final_seeds * options.epochs},
    }


def plan_text(options: SearchOptions) -> str:
    """Return how many configurations are trained for how long."""
    halving = options.halving()
    ladder, count = halving.ladder, halving.configurations
    epochs = ladder.epochs_of(count) + options.final_seeds * options.epochs
    lines = [f"{counted(count, 'configuration')} in {counted(halving.brackets, 'bracket')}"]
    left = min(ladder.bracket, count)
    for rung in ladder.rungs:
        lines.append(f"  {left} of a full bracket: up to epoch {rung}")
        left = ladder.survivors(left)
    finals = counted(options.final_seeds, "fresh seed")
    lines.append(f"then the best one with {finals}; {counted(epochs, 'epoch')} in total")
    return "\n".join(lines)


def search_text(summary: Mapping[str, Any]) -> str:
    """Return the settings that the search has found, and its score beside that of the final trials."""
    search = summary.get("search")
    if search is None:  # a run of jobs.train, or a damaged summary
        return "Search: not known"
    settings = ", ".join(f"{name} {value}" for name, value in search["settings"].items())
    score = Accuracy(**search["validation"]).value
    finals = [Accuracy(**found).value for trial in summary["trials"] if (found := trial.get("validation"))]
    fresh = f", {percent(statistics.fmean(finals))} on average with fresh seeds" if finals else ""
    return (
        f"Search: {counted(search['configurations'], 'configuration')}, {counted(search['epochs'], 'epoch')} in total;"
        f" the best has {settings}\n  Validation accuracy: {percent(score)} in the search{fresh}"
    )


def _run(options: SearchOptions, begin: float) -> int:
    with step("loading Ray and checking the storage", shown=not options.quiet):
        from cluster.connection.session import in_submitted_job
        from jobs.search.driver import search

        submitted = in_submitted_job()
        objects = open_for_writing(options.storage, options.lease, submitted)
    code = code_version(SOURCE_FOLDERS)
    run = open_run(
        objects,
        options.run_name,
        dataset=options.data().name,
        terms=options.terms(code),
        configuration=yaml.safe_dump(configuration(options.with_inline_space(), LEFT_OUT), sort_keys=False),
    )
    with run as folder:
        summary = folder.summary()
        if summary is None:
            check_data(options)
            trust_files(options.code_files.values())
            command = ["python", "-m", "jobs.search", "--resume", folder.run, "--storage", options.storage]
            command += ["--address", options.address] if options.address else []
            advice = "resume with: " + ("the same submission" if submitted else shlex.join(command))
            summary = search(options, begin, folder, code, advice)
        else:
            log.info("run %s is complete; for another search, use another --run-name", folder.run)
            finish(folder, summary, options)
    text = json.dumps(summary, indent=2) if options.json else f"{result_text(summary, folder)}\n{search_text(summary)}"
    print_result_of_job(text, submitted)
    return exit_code(summary)


if __name__ == "__main__":
    sys.exit(main())
