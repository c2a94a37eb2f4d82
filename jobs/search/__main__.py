"""`python -m jobs.search`: search for good settings. Progress goes to stderr, the result to stdout."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs import begin_of_command
from jobs.console import exit_codes
from jobs.console.output import print_result, run_command
from jobs.console.terminal import step
from jobs.search.options import LEFT_OUT, SearchOptions
from jobs.train.command import checked_options, result_text, run_job
from mnist_lib.results import Accuracy, mean_accuracy
from mnist_lib.search.space import settings_text
from mnist_lib.store.runs import RunFolder
from mnist_lib.wording import counted, percent

MAX_PLANNED = 3  # configurations that a plan shows


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(search_command, sys.argv[1:] if arguments is None else arguments)


def search_command(arguments: Sequence[str]) -> int:
    begin = begin_of_command()
    options = checked_options(SearchOptions, arguments, begin, LEFT_OUT).with_inline_space()
    if options.plan:
        print_result(json.dumps(plan_document(options), indent=2) if options.json else plan_text(options))
        return exit_codes.DONE
    with step("loading Ray", shown=not options.quiet):
        from cluster.session import in_submitted_job

    def work(folder: RunFolder, code: Mapping[str, Any], advice: str) -> dict[str, Any]:
        from jobs.search.driver import search

        return search(options, begin, folder, code, advice)

    def text(summary: dict[str, Any], folder: RunFolder) -> str:
        return f"{result_text(summary, folder)}\n{search_text(summary)}"

    return run_job(options, work, text, begin, submitted=in_submitted_job(), what="search", left_out=LEFT_OUT)


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
    """Return how many configurations are trained for how long, and the settings of the first ones."""
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
    propose = options.proposals(halving)
    lines += [f"configuration {n}: {settings_text(propose(n))}" for n in range(min(count, MAX_PLANNED, ladder.bracket))]
    return "\n".join(lines)


def search_text(summary: Mapping[str, Any]) -> str:
    """Return the settings that the search has found, and its score beside that of the final trials."""
    search = summary.get("search")
    if search is None:  # a run of jobs.train, or a damaged summary
        return "Search: not known"
    score = Accuracy(**search["validation"]).value
    finals, test = (mean_accuracy(trial.get(part) for trial in summary["trials"]) for part in ("validation", "test"))
    fresh = "" if finals is None else f", {percent(finals)} on average with fresh seeds"
    lost = "" if test is None else f"; on test {percent(test)}, {100 * (test - score):+.2f} points from the search"
    return (
        f"Search: {counted(search['configurations'], 'configuration')}, {counted(search['epochs'], 'epoch')} in total;"
        f" the best has {settings_text(search['settings'])}\n"
        f"  Validation accuracy: {percent(score)} in the search{fresh}{lost}\n"
        f"  To train with these settings: python -m jobs.train {shlex.join(search['train'])}"
    )


if __name__ == "__main__":
    sys.exit(main())
