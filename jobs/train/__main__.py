"""`python -m jobs.train`: train models on a cluster. Progress goes to stderr, the result to stdout."""

import json
import logging
import shlex
import sys
import time
from collections.abc import Sequence

import yaml

from jobs import SOURCE_FOLDERS
from jobs.console import exit_codes
from jobs.console.options import parse
from jobs.console.output import log_to_stderr, run_command
from jobs.console.terminal import step
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
from jobs.train.options import TrainOptions, terms_of
from mnist_lib.environment import code_version
from mnist_lib.objects.storage import check_storage
from mnist_lib.spec import TrialSpec
from mnist_lib.store.opening import open_run
from mnist_lib.store.runs import check_run_name

log = logging.getLogger("jobs.train")  # __name__ is "__main__" under `python -m`


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(train, sys.argv[1:] if arguments is None else arguments)


def train(arguments: Sequence[str]) -> int:
    begin = time.time()
    if any(word.partition("=")[0] == "--chaos" for word in arguments):
        raise exit_codes.UsageError("--chaos is not an option; use instead: python -m jobs.rehearse --seed N")
    options: TrainOptions = parse("jobs.train", TrainOptions, arguments)
    if options.resume is not None:
        options = resumed_options(options, arguments)
    log_to_stderr(verbose=options.verbose, quiet=options.quiet)
    options.require_trusted(arguments)
    trials = options.grid()
    options.check()
    options.check_data_dir()
    check_storage(options.storage)
    if options.run_name is not None:
        check_run_name(options.run_name)
    require_time_left(options, begin)
    with step("loading Ray", shown=not options.quiet):
        from cluster.connection.session import in_submitted_job
        from jobs.train.planning import forecast

    if options.plan or options.calibrate:
        plan = forecast(options, trials)
        print_result_of_job(json.dumps(plan.document(), indent=2) if options.json else str(plan), in_submitted_job())
        return exit_codes.DONE
    return _run(options, trials, begin, submitted=in_submitted_job())


def _run(options: TrainOptions, trials: Sequence[TrialSpec], begin: float, *, submitted: bool) -> int:
    with step("checking the storage", shown=not options.quiet):
        from jobs.train.driver import train_trials

        objects = open_for_writing(options.storage, options.lease, submitted)
    code = code_version(SOURCE_FOLDERS)
    run = open_run(
        objects,
        options.run_name,
        dataset=options.data().name,
        terms=terms_of(options, trials, code),
        configuration=yaml.safe_dump(configuration(options), sort_keys=False),
    )
    with run as folder:
        summary = folder.summary()
        if summary is None:
            check_data(options)
            trust_files(options.code_files.values())
            command = ["python", "-m", "jobs.train", "--resume", folder.run, "--storage", options.storage]
            command += ["--address", options.address] if options.address else []
            advice = "resume with: " + ("the same submission" if submitted else shlex.join(command))
            summary = train_trials(options, trials, begin, folder, code, advice)
        else:
            log.info("run %s is complete; for another run, use another --run-name", folder.run)
            finish(folder, summary, options)
    print_result_of_job(json.dumps(summary, indent=2) if options.json else result_text(summary, folder), submitted)
    return exit_code(summary)


if __name__ == "__main__":
    sys.exit(main())
