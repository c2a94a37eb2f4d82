"""`summary.json`: the result of a run in one document. Programs rely on it: only add fields, or raise the schema."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.augment import is_mirrored
from mnist_lib.data.changes import fall
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Labels
from mnist_lib.documents import Interval
from mnist_lib.environment import package_versions
from mnist_lib.intervals import VARYING, accuracy_interval
from mnist_lib.report.aggregation import Tally, deviation
from mnist_lib.results import Accuracy, TrialRecord, TrialResult, mean_score
from mnist_lib.run_documents import (
    DatasetSummary,
    FailedTrial,
    FoldsSummary,
    LabelErrors,
    ModelSummary,
    NearCopiesSummary,
    NearCopyFiles,
    Recall,
    SearchSummary,
    Significance,
    Summary,
    Timing,
)
from mnist_lib.spec import TrialSpec, is_unused
from mnist_lib.store.predictions import constant_answer

MIN_CONFUSED = 0.25  # of the test images of two classes; who guesses confuses half of them
SETTINGS = [
    field.name
    for field in fields(TrialSpec)
    if field.name not in ("model", "dataset", "seed", "arguments", "weights", "fold")
]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What `ModelSummary` says about the version that holds the chosen trial of a model."""

    version: int
    champion: bool
    promotion: str
    significance: Significance | None = None


def summarize(
    *,
    run: str,
    dataset: DatasetSummary,
    facts: Dataset,  # the dataset itself; its pixels are not needed
    tallies: Mapping[str, Tally],  # of the models with a successful trial
    stored: Mapping[str, Stored],  # of the same models
    trials: Sequence[TrialRecord | FailedTrial],
    timing: Timing,
    ended: str,  # UTC, ISO 8601
    earlier: Sequence[Summary] = (),  # the last runs of the dataset
    search: SearchSummary | None = None,
    folds: FoldsSummary | None = None,
    label_errors: LabelErrors | None = None,
) -> Summary:
    """Return the summary of a run."""
    models = {}
    labels = facts.test.labels
    for model, tally in sorted(tallies.items()):
        earlier_models = [summary.models[model] for summary in earlier if model in summary.models]
        before = [row.new_test for row in earlier_models if row.new_test]
        accuracies = tally.accuracies
        ensemble = tally.ensemble(labels)
        chosen = tally.chosen
        models[model] = ModelSummary(
            trials=len(accuracies),
            mean_test_accuracy=fmean(accuracies),
            std_test_accuracy=deviation(accuracies),
            ci95=tally.interval(labels, facts.test_groups),
            ci95_over=VARYING[len(accuracies) > 1],
            highest_test_accuracy=max(accuracies),
            ensemble_test=ensemble,
            ensemble_test_accuracy=ensemble.value,
            best_trial=chosen.trial,
            best_trial_test_accuracy=chosen.record.test_accuracy,
            score=chosen.record.spec.score,
            mean_test_balanced_accuracy=tally.balanced_accuracy(labels),
            **_by_class(chosen, facts),
            **_partial_tests(chosen, facts, before),
            **vars(stored[model]),
        )
    return Summary(
        run=run,
        dataset=dataset,
        models=models,
        trials=sorted(trials, key=_position),
        ended=ended,
        timing=timing,
        versions=dict(next((tally.chosen.record.versions for _, tally in sorted(tallies.items())), package_versions())),
        search=search,
        folds=folds,
        label_errors=label_errors,
    )


def _position(trial: TrialRecord | FailedTrial) -> tuple[str, int, int]:
    """Return what the trials of a summary are sorted by."""
    spec = trial.spec
    return spec.model, spec.seed, -1 if spec.fold is None else spec.fold


def dataset_summary(info: Dataset, validation_percent: int | None) -> DatasetSummary:
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
        damaged=len(info.report.unreadable),
        notices=info.report.notices,
        corrections=info.report.corrections,
        groups=info.group_counts,
        has_test_folder=info.report.has_test_folder,
        near_copies=near_copies_summary(info),
    )


def near_copies_summary(info: Dataset) -> NearCopiesSummary | None:
    """Return what a summary says about near-copies, or None if they were not looked for."""
    found = info.report.near_copies
    if found is None:
        return None
    first = tuple(NearCopyFiles(test=test, train=train) for test, train in info.report.near_copy_files)
    return NearCopiesSummary(count=len(found.test), compared=found.compared, first=first)


def _by_class(chosen: TrialResult, facts: Dataset) -> dict[str, Any]:
    """Return the accuracy of the stored trial on each class, their mean, and its answer if it has only one."""
    answers = chosen.probabilities.argmax(axis=1)
    labels = facts.test.labels
    recall = recall_by_class(answers == labels, labels, len(facts.classes), facts.test_groups)
    answer = constant_answer(answers, labels)
    return {
        "best_trial_test_balanced_accuracy": mean_score(row.correct / row.total for row in recall if row.total),
        "recall": recall,
        "always_answers": None if answer is None else facts.classes[answer],
        "mirrored": _confused_pairs(answers, labels, facts.classes) if is_mirrored(chosen.record.spec.augment) else (),
    }


def _confused_pairs(answers: NDArray[np.int64], labels: Labels, classes: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of classes of whose test images at least MIN_CONFUSED are answered with the other class.

    Of two classes that are mirror images of each other, a network that is trained with both mirrored can only guess.
    """
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, answers), 1)
    sizes = confusion.sum(axis=1)
    confused = np.triu(confusion + confusion.T, k=1)
    found = (confused >= MIN_CONFUSED * (sizes[:, None] + sizes)) & (confused > 1)
    return tuple((classes[one], classes[other]) for one, other in np.argwhere(found).tolist())


def recall_by_class(
    correct: NDArray[np.bool_], labels: Labels, classes: int, groups: NDArray[np.int32] | None
) -> tuple[Recall, ...]:
    """Return the accuracy on the images of each class. correct, labels, groups: [images]."""
    parts = [_part(correct, labels == label, groups) for label in range(classes)]
    return tuple(Recall(correct=test.correct, total=test.total, ci95=interval) for test, interval in parts)


def _partial_tests(chosen: TrialResult, facts: Dataset, before: Sequence[Accuracy]) -> dict[str, Any]:
    """Return the accuracy of the stored trial on published labels, and on reviewed, new and distinct images alone."""
    images = facts.test
    changes = facts.report.changes
    near_copies = facts.report.near_copies
    answers = chosen.probabilities.argmax(axis=1)
    correct, fields = answers == images.labels, dict[str, Any]()
    if (images.published != images.labels).any():
        test = Accuracy(int((answers == images.published).sum()), len(images))
        fields |= {"published_test": test, "published_test_accuracy": test.value}
    if changes is not None and changes.new_test.any():
        test, _ = _part(correct, changes.new_test)
        fields |= {"new_test": test, "new_test_accuracy": test.value, "new_test_before": fall(test, before)}
    distinct = near_copies.distinct(len(images)) if near_copies else np.ones(len(images), bool)
    for name, inside in (("reviewed", images.reviewed), ("distinct", distinct & (not distinct.all()))):
        if inside.any():
            test, interval = _part(correct, inside, facts.test_groups)
            fields |= {f"{name}_test": test, f"{name}_test_accuracy": test.value, f"{name}_test_ci95": interval}
    return fields


def _part(
    correct: NDArray[np.bool_], inside: NDArray[np.bool_], groups: NDArray[np.int32] | None = None
) -> tuple[Accuracy, Interval]:
    """Return the accuracy on a part of the test images, and its 95% interval. All arguments: [test images]."""
    interval = accuracy_interval(correct[inside], groups=None if groups is None else groups[inside])
    return Accuracy(int(correct[inside].sum()), int(inside.sum())), interval


def settings_of(summary: Summary) -> dict[str, dict[str, str]]:
    """Return the settings of each model as text: {"learning rate": {"keras": "0.001"}}."""
    found: dict[str, dict[str, str]] = {}
    for trial in summary.trials:
        spec = trial.spec
        settings = {name: getattr(spec, name) for name in SETTINGS}
        for name, value in spec.arguments.items():
            settings[f"argument {name}" if name in SETTINGS and settings[name] != value else name] = value
        for name, sha256 in spec.weights.items():
            settings[f"weights {name}"] = sha256[:12]
        for name in ("source_sha256", "init_sha256"):
            settings[name] = settings[name] and settings[name][:12]
        for name, value in settings.items():
            if value is not None and not is_unused(name, value):
                found.setdefault(name.replace("_", " "), {})[spec.model] = str(value)
    return found
