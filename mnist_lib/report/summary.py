"""`summary.json`: the result of a run in one document. Programs rely on its schema: only add to it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.changes import fall
from mnist_lib.data.split import Dataset, Labels
from mnist_lib.environment import package_versions
from mnist_lib.intervals import VARYING, accuracy_interval
from mnist_lib.report.aggregation import Tally
from mnist_lib.results import Accuracy, Measurements, TrialFailure, TrialResult, mean_score
from mnist_lib.run_documents import (
    ChangesSummary,
    DatasetSummary,
    ErrorSummary,
    FailedTrial,
    FoldsSummary,
    ModelSummary,
    NearCopiesSummary,
    NearCopyFiles,
    Recall,
    SearchSummary,
    Significance,
    SuccessfulTrial,
    Summary,
    Timing,
)
from mnist_lib.spec import TrialSpec, is_unused
from mnist_lib.store.predictions import constant_answer

# Fields that a summary of a trial takes from its measurements:
MEASURED = {*Measurements.__struct_fields__} & {*SuccessfulTrial.__struct_fields__}
SETTINGS = [
    field.name
    for field in fields(TrialSpec)
    if field.name not in ("model", "dataset", "seed", "arguments", "weights", "fold")
]


@dataclass(frozen=True)
class Stored:
    """The version that holds the chosen trial of a model."""

    version: int
    champion: bool
    why: str  # reason for `champion`
    significance: Significance | None = None  # what is left of it for this dataset
    promoted_instead: int | None = None  # an earlier version that became the champion


def summarize(
    *,
    run: str,
    dataset: DatasetSummary,
    tallies: Mapping[str, Tally],  # of the models with a successful trial
    stored: Mapping[str, Stored],  # of the same models
    labels: Labels,  # [test images]
    groups: NDArray[np.int32] | None = None,  # [test images]: the number of the group; None without groups
    trials: Sequence[SuccessfulTrial | FailedTrial],
    timing: Timing,
    ended: str,  # UTC, ISO 8601
    published: Labels | None = None,  # [test images]: before corrections, if these differ
    reviewed: NDArray[np.bool_] | None = None,  # [test images]: those whose label was reviewed at random
    new: NDArray[np.bool_] | None = None,  # [test images]: those that the last run did not have
    distinct: NDArray[np.bool_] | None = None,  # [test images]: those that resemble no training image
    earlier: Sequence[Summary] = (),  # the last runs of the dataset
    search: SearchSummary | None = None,
    folds: FoldsSummary | None = None,
) -> Summary:
    """Return the summary of a run."""
    models = {}
    for model, tally in sorted(tallies.items()):
        earlier_models = [summary.models[model] for summary in earlier if model in summary.models]
        before = [row.new_test for row in earlier_models if row.new_test]
        statistics, ensemble, chosen = tally.statistics, tally.ensemble(labels), tally.chosen
        models[model] = ModelSummary(
            trials=statistics.count,
            mean_test_accuracy=statistics.mean,
            std_test_accuracy=statistics.std,
            ci95=tally.interval(labels, groups),
            ci95_over=VARYING[statistics.count > 1],
            highest_test_accuracy=tally.highest,
            ensemble_test=ensemble,
            ensemble_test_accuracy=ensemble.value,
            best_trial=chosen.trial,
            best_trial_test_accuracy=chosen.test.value,
            score=chosen.spec.score,
            mean_test_balanced_accuracy=tally.balanced_accuracy(labels),
            **_by_class(chosen, labels, groups, dataset.classes),
            version=stored[model].version,
            champion=stored[model].champion,
            promoted_instead=stored[model].promoted_instead,
            promotion=stored[model].why,
            significance=stored[model].significance,
            **_partial_tests(chosen, labels, groups, published, reviewed, new, before, distinct),
        )
    return Summary(
        run=run,
        dataset=dataset,
        models=models,
        trials=sorted(trials, key=lambda trial: (trial.model, trial.seed, -1 if trial.fold is None else trial.fold)),
        ended=ended,
        timing=timing,
        versions=dict(next((tally.chosen.versions for _, tally in sorted(tallies.items())), package_versions())),
        search=search,
        folds=folds,
    )


def dataset_summary(
    info: Dataset, validation_percent: int | None, changes: ChangesSummary | None = None
) -> DatasetSummary:
    """Return what a summary says about a dataset."""
    validation = info.validation_size(validation_percent)
    return DatasetSummary(
        name=info.name,
        version=info.version,
        fingerprint=info.fingerprint,
        classes=info.classes,
        image_shape=info.image_shape,
        train=len(info.train) - validation,
        validation=validation,
        test=len(info.test),
        largest_class=int(np.bincount(info.test.labels).max()),
        damaged=info.damaged,
        notices=info.notices,
        corrections=info.corrections,
        groups=info.group_counts,
        changes=changes,
        near_copies=near_copies_summary(info),
    )


def near_copies_summary(info: Dataset) -> NearCopiesSummary | None:
    """Return what a summary says about near-copies, or None if they were not looked for."""
    if info.near_copies is None:
        return None
    first = tuple(NearCopyFiles(test=test, train=train) for test, train in info.near_copy_files)
    return NearCopiesSummary(count=len(info.near_copies.test), compared=info.near_copies.compared, first=first)


def _by_class(
    chosen: TrialResult, labels: Labels, groups: NDArray[np.int32] | None, classes: Sequence[str]
) -> dict[str, Any]:
    """Return the accuracy of the stored trial on each class, their mean, and its answer if it has only one."""
    answers, recall = chosen.probabilities.argmax(axis=1), []
    for label in range(len(classes)):
        own = labels == label
        correct = answers[own] == label
        interval = accuracy_interval(correct, groups=None if groups is None else groups[own])
        recall.append(Recall(correct=int(correct.sum()), total=len(correct), ci95=interval))
    answer = constant_answer(answers, labels)
    return {
        "best_trial_test_balanced_accuracy": mean_score(row.correct / row.total for row in recall if row.total),
        "recall": tuple(recall),
        "always_answers": None if answer is None else classes[answer],
    }


def _partial_tests(
    chosen: TrialResult,
    labels: Labels,
    groups: NDArray[np.int32] | None,
    published: Labels | None,
    reviewed: NDArray[np.bool_] | None,
    new: NDArray[np.bool_] | None,
    before: Sequence[Accuracy],
    distinct: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    """Return the accuracy of the stored trial on published labels, and on reviewed, new and distinct images alone."""
    answers, fields = chosen.probabilities.argmax(axis=1), dict[str, Any]()
    correct = answers == labels
    if published is not None:
        test = Accuracy(int((answers == published).sum()), len(published))
        fields |= {"published_test": test, "published_test_accuracy": test.value}
    if reviewed is not None:
        fields |= _partial_test("reviewed", correct, groups, reviewed)
    if new is not None and new.any():
        test = Accuracy(int(correct[new].sum()), int(new.sum()))
        fields |= {"new_test": test, "new_test_accuracy": test.value, "new_test_before": fall(test, before)}
    if distinct is not None and distinct.any() and not distinct.all():
        fields |= _partial_test("distinct", correct, groups, distinct)
    return fields


def _partial_test(
    name: str, correct: NDArray[np.bool_], groups: NDArray[np.int32] | None, inside: NDArray[np.bool_]
) -> dict[str, Any]:
    test = Accuracy(int(correct[inside].sum()), int(inside.sum()))
    interval = accuracy_interval(correct[inside], groups=None if groups is None else groups[inside])
    return {f"{name}_test": test, f"{name}_test_accuracy": test.value, f"{name}_test_ci95": interval}


def trial_summary(
    spec: TrialSpec, outcome: TrialResult | TrialFailure, attempts: int, *, retry: bool = False
) -> SuccessfulTrial | FailedTrial:
    """Return one trial with its result or its error.

    Args:
        retry: whether a failed trial may succeed in another run of the same command.
    """
    about: dict[str, Any] = {"id": outcome.trial, **asdict(spec), "attempts": attempts}
    about["hidden_units"] = spec.arguments.get("hidden_units")
    if isinstance(outcome, TrialFailure):
        error = ErrorSummary(code=outcome.code, message=outcome.message, details=outcome.details, retry=retry)
        return FailedTrial(**about, error=error)
    return SuccessfulTrial(
        **about,
        **{name: getattr(outcome, name) for name in MEASURED},
        test_accuracy=outcome.test.value,
    )


def settings_of(summary: Summary) -> dict[str, dict[str, str]]:
    """Return the settings of each model as text: {"learning rate": {"keras": "0.001"}}."""
    found: dict[str, dict[str, str]] = {}
    for trial in summary.trials:
        settings = {name: getattr(trial, name) for name in (*SETTINGS, "hidden_units")}
        for name, value in trial.arguments.items():
            settings[f"argument {name}" if name in SETTINGS and settings[name] != value else name] = value
        for name, sha256 in trial.weights.items():
            settings[f"weights {name}"] = sha256[:12]
        for name in ("source_sha256", "init_sha256"):
            if settings[name]:
                settings[name] = settings[name][:12]
        for name, value in settings.items():
            if value is not None and not is_unused(name, value):
                found.setdefault(name.replace("_", " "), {})[trial.model] = str(value)
    return found
