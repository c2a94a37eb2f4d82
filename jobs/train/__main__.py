"""`python -m jobs.train`: train models on a cluster. Progress goes to stderr, the result to stdout."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs import begin_of_command
from jobs.console import exit_codes
from jobs.console.output import run_command
from jobs.console.terminal import step
from jobs.train.command import checked_options, print_result_of_job, result_text, run_job
from jobs.train.options import TrainOptions
from mnist_lib.store.runs import RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(train, sys.argv[1:] if arguments is None else arguments)


def train(arguments: Sequence[str]) -> int:
    begin = begin_of_command()
    if any(word.partition("=")[0] == "--chaos" for word in arguments):
        raise exit_codes.UsageError("--chaos is not an option; use instead: python -m jobs.rehearse --seed N")
    options = checked_options(TrainOptions, arguments, begin)
    with step("loading Ray", shown=not options.quiet):
        from cluster.session import in_submitted_job
        from jobs.train.planning import forecast

    if options.plan or options.calibrate:
        plan = forecast(options, options.grid())
        print_result_of_job(json.dumps(plan.document(), indent=2) if options.json else str(plan), in_submitted_job())
        return exit_codes.DONE

    def work(folder: RunFolder, code: Mapping[str, Any], advice: str) -> dict[str, Any]:
        from jobs.train.driver import train_trials

        return train_trials(options, options.grid(), begin, folder, code, advice)

    return run_job(options, work, result_text, begin, submitted=in_submitted_job())


if __name__ == "__main__":
    sys.exit(main())
