"""`python -m jobs.search`: search for good settings. Progress goes to stderr, the result to stdout."""

import math
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs import begin_of_command
from jobs.console.output import CommandResult, entry_point
from jobs.search.plan import SearchOptions, SearchPlan
from jobs.search.space import settings_text
from jobs.train.__main__ import checked_plan, run_job
from jobs.train.plan import resolve_defaults_by
from mnist_lib.data.reading.folder import volume_of
from mnist_lib.objects.storage import open_storage
from mnist_lib.results import mean_score
from mnist_lib.run_documents import Summary
from mnist_lib.spec import BY_IMAGES_TEXT
from mnist_lib.store.reference import with_reference_shape
from mnist_lib.wording import counted, percent

if TYPE_CHECKING:
    from jobs.train.run import Run

MAX_PLANNED = 3  # configurations that a plan shows
OPTIONS = {"": SearchOptions}


@entry_point
def main(arguments: Sequence[str]) -> CommandResult:
    begin = begin_of_command()
    plan = checked_plan(SearchPlan, SearchOptions, arguments, begin)
    options = plan.options
    if options.plan:
        volume = volume_of(with_reference_shape(options.data(), open_storage(options.storage)))
        by_images = BY_IMAGES_TEXT if options.data().entry is None else ""
        if volume:
            plan, by_images = resolve_defaults_by(plan, volume)
        else:  # if the catalog does not know the number of images, the defaults for many images
            plan = plan.resolve_defaults(lambda: math.inf)
        document = {**plan_document(plan), "images": volume.document() if volume else None}
        lines = [*plan_lines(plan), by_images, f"images: {volume}" if volume else ""]
        return CommandResult(document, [*filter(None, lines)], json=options.json)
    return run_job(plan, begin, _search, search_lines)


def _search(run: "Run[SearchPlan]") -> Summary:
    from jobs.search.driver import search

    return search(run)


def plan_document(plan: SearchPlan) -> dict[str, Any]:
    """Return the rungs of a search and its numbers of configurations and epochs; None if the time decides a number."""
    options = plan.options
    halving = plan.halving()
    count = plan.planned_configurations(halving)
    return {
        "configurations": count,
        "brackets": count and halving.brackets,
        "folds": options.folds,
        "rungs": list(halving.ladder.rungs),
        "epochs": {"search": count and halving.ladder.epochs_of(count), "final": options.final_seeds * options.epochs},
    }


def plan_lines(plan: SearchPlan) -> list[str]:
    """Return how many configurations are trained for how long, and the settings of the first ones."""
    ladder = plan.halving().ladder
    document = plan_document(plan)
    count = document["configurations"]
    brackets = f"as many brackets of {counted(ladder.bracket, 'configuration')} as the time allows"
    total = ""
    if count is not None:
        brackets = f"{counted(count, 'configuration')} in {counted(document['brackets'], 'bracket')}"
        total = f"; {counted(sum(document['epochs'].values()), 'epoch')} in total"
    lines = [brackets]
    if document["folds"] is not None:
        lines = [f"{brackets}, each trained {document['folds']} times, each time without one of the folds"]
    left = first = min(ladder.bracket, count or ladder.bracket)
    for rung in ladder.rungs:
        lines.append(f"  {left} of the first bracket: up to epoch {rung}")
        left = ladder.survivors(left, has_defaults=True)
    lines.append(f"then the best one with {counted(plan.options.final_seeds, 'fresh seed')}{total}")
    propose = plan.proposals()
    return lines + [f"configuration {n}: {settings_text(propose(n))}" for n in range(min(first, MAX_PLANNED))]


def search_lines(summary: Summary) -> list[str]:
    """Return lines with the settings that the search has found, their score, and the scores of the final trials."""
    search = summary.search
    assert search is not None  # since the run is one of jobs.search
    score = search.validation.score
    name = search.validation.score_name
    finals = mean_score(trial.validation_score for trial in summary.successful)
    test = mean_score(trial.test_score for trial in summary.successful)
    fresh = "" if finals is None else f", {percent(finals)} on average with fresh seeds"
    measure = f"Validation {name}" if search.folds is None else f"Out-of-fold {name}, {search.folds} folds"
    lost = "" if test is None else f"; on test {percent(test)}, {100 * (test - score):+.2f} points from the search"
    return [
        f"Search: {counted(search.configurations, 'configuration')}, {counted(search.epochs, 'epoch')} in total;"
        f" the best has {settings_text(search.settings)}",
        f"  {measure}: {percent(score)} in the search{fresh}{lost}",
        *([] if search.defaults is None else [_gain_text(score, search.defaults.score)]),
        f"  To train with these settings: python -m jobs.train {shlex.join(search.train)}",
    ]


def _gain_text(score: float, defaults: float) -> str:
    if score <= defaults:
        return "  No other settings are better than the default ones by more than chance"
    gain = f"{100 * (score - defaults):+.2f} points"
    return f"  The default settings: {percent(defaults)} on the same images, so the search has gained {gain}"


if __name__ == "__main__":
    sys.exit(main())
