"""The combined results of a model's trials: which trial is stored, the statistics over seeds, and the ensemble.

Folds say how accurate models are on the images of training and validation: each image is predicted by trials that were
not trained on it. Training images whose label may be wrong are those with the lowest margins of the stored trials.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import hash_of_text, indices_of, text_of
from mnist_lib.documents import Interval
from mnist_lib.intervals import accuracy_interval
from mnist_lib.results import Accuracy, TrialResult
from mnist_lib.run_documents import MAX_LABEL_ERRORS, FoldsSummary, LabelError, LabelErrors, OutOfFold
from mnist_lib.spec import TrialSpec
from mnist_lib.store.margins import MARGINS, Margins

# A label is named if its margin is below 0 and at least so many interquartile ranges below the median one. Nearly all
# labels named so were wrong in `benchmarks.label_errors`; with 2.25, up to 1 in 100 right ones was named.
NAMED = 2.6


def deviation(accuracies: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample of accuracies, with n - 1; None of a single one."""
    return statistics.stdev(accuracies) if len(accuracies) > 1 else None


class Tally:
    """The results of a model's trials. `chosen` is the one to store: the best on validation, in a tie the lowest seed.

    Without validation images, the accuracy in the last epoch of training decides, since a seed may learn nothing. Of
    trials of folds it is the first one, since each is measured on other images.

    It is never chosen by test accuracy, since the reported test accuracy would then be too high. Results that an
    earlier process has stored may lack their model, because another trial was better; if that one is lost, the best of
    those with a model is chosen.
    """

    def __init__(self, first: TrialResult) -> None:
        self.chosen = first
        self._best = (_preference(first), first.trial)
        self._tests = [first.record.test]
        # [test images, classes]; votes are the number of trials that predict a class.
        self.sum_of_probabilities: NDArray[np.float64] = first.probabilities.astype("float64")
        self.votes: NDArray[np.int32] = _votes(first.probabilities)

    def add(self, result: TrialResult) -> None:
        self._tests.append(result.record.test)
        self.sum_of_probabilities += result.probabilities
        self.votes += _votes(result.probabilities)
        self._best = max(self._best, (_preference(result), result.trial))
        if (bool(result.files), _preference(result)) > (bool(self.chosen.files), _preference(self.chosen)):
            self.chosen = result

    @property
    def best_trial(self) -> str:
        """The trial that should be stored, whether or not its model is there."""
        return self._best[1]

    @property
    def accuracies(self) -> list[float]:
        """The test accuracy of each trial. The highest one is partly chance."""
        return [test.value for test in self._tests]

    def interval(self, labels: NDArray[np.integer[Any]], groups: NDArray[np.int32] | None = None) -> Interval:
        """Return the 95% interval of the mean accuracy. labels: [test images]; groups: as in `accuracy_interval`."""
        correct = self.votes[range(len(labels)), labels]
        return accuracy_interval(correct, [test.correct for test in self._tests], groups)

    def balanced_accuracy(self, labels: NDArray[np.integer[Any]]) -> float:
        """Return the mean over the trials of the mean of the accuracies of the classes. labels: [test images]."""
        present, number, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        correct = np.bincount(number, self.votes[range(len(labels)), labels], len(present))
        return float((correct / sizes).mean() / len(self._tests))

    def ensemble(self, labels: NDArray[np.integer[Any]]) -> Accuracy:
        """Return the accuracy of the mean of all trials' probabilities. labels: [test images]."""
        return Accuracy(int((self.sum_of_probabilities.argmax(axis=1) == labels).sum()), len(labels))


def _votes(probabilities: NDArray[np.float32]) -> NDArray[np.int32]:
    predictions = probabilities.argmax(axis=1)
    votes: NDArray[np.int32] = (predictions[:, None] == range(probabilities.shape[1])).astype("int32")
    return votes


def _preference(result: TrialResult) -> tuple[float, int, int]:
    spec = result.record.spec
    measured = result.record.validation or (result.history[-1].train if result.history else None)
    score = measured.score if measured is not None and spec.fold is None else 0.0
    return (score, -spec.seed, -(spec.fold or 0))


Probabilities = NDArray[np.float32]


def folds_summary(of_folds: Mapping[TrialSpec, Probabilities], dataset: Dataset) -> FoldsSummary:
    """Return what a summary says about folds.

    Args:
        of_folds: what each trial of a fold, at least one, predicts for the images of its fold: [images, classes].
    """
    folds = next(iter(of_folds)).folds
    assert folds is not None
    train = dataset.train
    labels = train.labels
    models = dict[str, OutOfFold]()
    groups = np.unique(train.ranks, return_inverse=True)[1].astype(np.int32)  # each is in one fold
    balances = next(iter(of_folds)).score == "balanced-accuracy"
    for model, by_seed in out_of_fold(of_folds, dataset).items():
        correct = by_seed.argmax(axis=2) == labels
        interval = accuracy_interval(correct.sum(axis=0), [*correct.sum(axis=1)], groups)
        sizes = np.bincount(labels)
        recall = np.bincount(labels, correct.mean(axis=0))[sizes > 0] / sizes[sizes > 0]
        models[model] = OutOfFold(
            seeds=len(by_seed),
            accuracy=float(correct.mean()),
            ci95=interval,
            balanced_accuracy=float(recall.mean()) if balances else None,
        )
    return FoldsSummary(folds=folds, images=len(labels), models=models)


def out_of_fold(of_folds: Mapping[TrialSpec, Probabilities], dataset: Dataset) -> dict[str, Probabilities]:
    """Return by model what trials predict for all train images, each image by those that were not trained on it:
    [seeds, train images, classes].

    A seed with which a fold was not trained is left out, and a model without any seed.
    """
    trials = defaultdict[tuple[str, int], list[TrialSpec]](list)
    found = defaultdict[str, list[Probabilities]](list)
    for spec in of_folds:
        trials[spec.model, spec.seed].append(spec)
    for (model, _), specs in sorted(trials.items()):
        if specs[0].folds is None or len(specs) < specs[0].folds:
            continue
        folds = dataset.folds(specs[0].folds)
        together = np.empty((len(folds), len(dataset.classes)), np.float32)
        for spec in specs:
            together[folds == spec.fold] = of_folds[spec]
        found[model].append(together)
    return {model: np.stack(seeds) for model, seeds in found.items()}


def label_errors(chosen: Collection[TrialResult], facts: Dataset, dataset: Callable[[], Dataset]) -> LabelErrors | None:
    """Return what a summary says about labels that may be wrong; None if no trial has margins.

    Args:
        chosen: the stored trial of each model. An image has the mean of its deviations.
        facts: the dataset without its pixels and files.
        dataset: returns the dataset. It is called if a label is named.
    """
    files = [result.files[MARGINS] for result in chosen if MARGINS in result.files]
    if not files:
        return None
    train = facts.train
    of_models = [Margins.read(content, MARGINS) for content in files]
    # A mean is only large enough if that of one model is.
    large = np.concatenate([margins.hashes[margins.deviations >= NAMED] for margins in of_models])
    rows = np.unique(indices_of(large, train.hashes))
    sums, counts = np.zeros((2, len(rows)))
    for margins in of_models:
        places = indices_of(train.hashes[rows], margins.hashes)
        known = places >= 0
        sums[known] += margins.deviations[places[known]]
        counts += known
    deviations = sums / counts
    count = int((deviations >= NAMED).sum())
    order = np.argsort(-deviations, kind="stable")[: min(count, MAX_LABEL_ERRORS)]
    if count:
        train = dataset().train  # with the names of the files
    first = tuple(
        LabelError(
            image=text_of(train.hashes[row]),
            file=train.file(row),
            label=facts.classes[train.labels[row]],
            deviation=float(deviation),
        )
        for row, deviation in zip(rows[order], deviations[order], strict=True)
    )
    return LabelErrors(count=count, first=first)


def suspects(errors: LabelErrors | None, dataset: Dataset, count: int) -> list[int]:
    """Return the first of the label errors as indices of train images."""
    first = errors.first[:count] if errors else ()
    hashes = np.array([hash_of_text(error.image) for error in first], np.uint64).reshape(-1, 2)
    return [row for row in indices_of(hashes, dataset.train.hashes).tolist() if row >= 0]
