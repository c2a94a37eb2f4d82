"""Classes of 95 and 5%: what a search prefers by each score, with real training in this process."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from jobs.search.plan import SearchOptions, SearchPlan
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.table import Table
from mnist_lib.report.texts import notes
from mnist_lib.results import Accuracy, RungDone, TrialResult
from mnist_lib.run_documents import Summary
from mnist_lib.training.assignment import Assignment, Resources
from tests.support.made_run import summary_of_results
from tests.support.results import with_fields

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


@pytest.fixture(scope="module")
def skewed() -> Dataset:
    """Fours and, as 5% of the images, nines, under noise."""
    random, splits = np.random.default_rng(0), []
    with np.load(FOLDER / "mnist-mini.npz") as arrays:
        for split, large, small in (("train", 380, 20), ("test", 95, 5)):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            rows = np.concatenate([np.flatnonzero(labels == 4)[:large], np.flatnonzero(labels == 9)[:small]])
            noisy = np.clip(images[rows] + random.normal(0, 60, images[rows].shape), 0, 255).astype(np.uint8)
            splits.append(Table.of(noisy, (labels[rows] == 9).astype(np.uint8)))
    train, test = splits
    return Dataset.of("skewed", "1", train, test, ["four", "nine"])


PLAN = SearchPlan.of(
    SearchOptions(
        vary={"class_weights": "none,balanced"},
        strategy="grid",
        models=("keras",),
        hidden_units=16,
        epochs=2,
        global_batch_size=32,
        optimizer="adam",
        validation_percent=50,
        score="balanced-accuracy",
    )
)


def run(assignments: Iterable[Assignment], dataset: Dataset) -> list[Any]:
    from mnist_lib.training.trial import WorkerPlace, run_trials

    events = run_trials(assignments, lambda: dataset, Resources(cpus=2, cpu_replicas=2), WorkerPlace(node="here"))
    return [event for event in events if isinstance(event, RungDone | TrialResult)]


@pytest.fixture(scope="module")
def ended(skewed: Dataset, tensorflow: None) -> tuple[list[Accuracy], list[TrialResult]]:
    """Return the scores of both configurations, and the results of a final trial of each."""
    search = [PLAN.trial(PLAN.proposals()(number), number) for number in range(2)]
    finals = [replace(spec, configuration=None, seed=1) for spec in search]
    assignments = [*(Assignment(spec, until=2) for spec in search), *map(Assignment, finals)]
    first, second, *results = run(assignments, skewed)
    return [first.validation, second.validation], results


def winner(scores: list[Accuracy]) -> dict[str, Any]:
    halving = PLAN.halving()
    while (step := halving.next_step()) is not None:
        halving.record(step, scores[step.configuration])
    best = halving.best()
    assert best is not None
    return dict(PLAN.proposals()(best[0]))


def summary_of(result: TrialResult, dataset: Dataset) -> Summary:
    return summary_of_results([result], labels=dataset.test.labels, classes=tuple(dataset.classes))


def test_a_search_by_balanced_accuracy_prefers_a_model_that_knows_both_classes(
    skewed: Dataset, ended: tuple[list[Accuracy], list[TrialResult]]
) -> None:
    scores, results = ended
    assert winner(scores) == {"class_weights": "balanced"}
    assert winner([structs.replace(score, balanced=None) for score in scores]) == {}  # the default settings
    assert [summary_of(result, skewed).models["keras"].always_answers for result in results] == ["four", None]


def test_a_run_by_accuracy_names_the_model_that_always_answers_the_larger_class(
    skewed: Dataset, ended: tuple[list[Accuracy], list[TrialResult]]
) -> None:
    constant = ended[1][0]
    assert any(note.endswith("; add images of the other classes.") for note in notes(summary_of(constant, skewed)))
    constant = with_fields(constant, score="accuracy")
    (note,) = [note for note in notes(summary_of(constant, skewed)) if "four" in note]
    assert note == (
        "keras always answers four and is not clearly better than guessing, which is correct for 95.00%; to let"
        " every class count the same, train with --score balanced-accuracy --class-weights balanced."
    )
