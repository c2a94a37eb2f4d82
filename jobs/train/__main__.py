"""`python -m jobs.train`: train models on a cluster. Progress goes to stderr, the result to stdout."""

import sys
from collections.abc import Sequence

from jobs import begin_of_command
from jobs.console.exit_codes import UsageError
from jobs.console.output import CommandResult, entry_point
from jobs.console.terminal import step
from jobs.train.command import checked_options, run_job
from jobs.train.options import TrainOptions


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    begin = begin_of_command()
    if any(word.partition("=")[0] == "--chaos" for word in arguments):
        raise UsageError("--chaos is not an option; use instead: python -m jobs.rehearse --seed N")
    options = checked_options(TrainOptions, arguments, begin)
    if options.plan or options.calibrate:
        with step("loading Ray", shown=not options.quiet):
            from cluster.session import in_submitted_job
            from jobs.train.planning import forecast
        plan = forecast(options, options.grid())
        return CommandResult(plan.document(), str(plan).split("\n"), json=options.json, marked=in_submitted_job())
    return run_job(options, begin, lambda run: run.train())


if __name__ == "__main__":
    sys.exit(main())
