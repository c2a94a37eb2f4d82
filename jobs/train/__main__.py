"""`python -m jobs.train`: train models on a cluster. Progress goes to stderr, the result to stdout."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs import begin_of_command
from jobs.console.exit_codes import UsageError
from jobs.console.output import CommandResult, entry_point
from jobs.console.terminal import step
from jobs.train.command import checked_options, result_lines, run_job
from jobs.train.options import TrainOptions
from mnist_lib.run_documents import Summary
from mnist_lib.store.runs import RunFolder


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    begin = begin_of_command()
    if any(word.partition("=")[0] == "--chaos" for word in arguments):
        raise UsageError("--chaos is not an option; use instead: python -m jobs.rehearse --seed N")
    options = checked_options(TrainOptions, arguments, begin)
    with step("loading Ray", shown=not options.quiet):
        from cluster.session import in_submitted_job
        from jobs.train.planning import forecast

    if options.plan or options.calibrate:
        plan = forecast(options, options.grid())
        return CommandResult(plan.document(), str(plan).split("\n"), json=options.json, marked=in_submitted_job())

    def work(folder: RunFolder, code: Mapping[str, Any], advice: str) -> Summary:
        from jobs.train.driver import train_trials

        return train_trials(options, options.grid(), begin, folder, code, advice)

    return run_job(options, work, result_lines, begin, submitted=in_submitted_job())


if __name__ == "__main__":
    sys.exit(main())
