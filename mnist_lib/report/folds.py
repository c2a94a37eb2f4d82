"""What folds tell: how accurate models are on the images of training and validation, and which of their labels may be
wrong. Each image is predicted by trials that were not trained on it.

A label error cannot be found by a model that was trained on it, since such a model has learned the label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.split import Dataset, Labels, hash_of_text, indices_of, text_of
from mnist_lib.errors import IntegrityError
from mnist_lib.intervals import accuracy_interval
from mnist_lib.report.evidence import Mistake
from mnist_lib.run_documents import MAX_LABEL_ERRORS, FoldsSummary, LabelError, OutOfFold
from mnist_lib.spec import TrialSpec

Probabilities = NDArray[np.float32]


def folds_summary(of_folds: Mapping[TrialSpec, Probabilities], dataset: Dataset) -> FoldsSummary:
    """Return what a summary says about folds.

    Args:
        of_folds: what each trial of a fold, at least one, predicts for the images of its fold: [images, classes].

    Raises:
        IntegrityError: the predictions of a trial, which an earlier process has stored, are of other images.
    """
    folds = next(iter(of_folds)).folds
    assert folds is not None
    labels, models, errors, best = dataset.train.labels, dict[str, OutOfFold](), list[LabelError](), None
    groups = np.unique(dataset.ranks[: len(labels)], return_inverse=True)[1].astype(np.int32)  # each is in one fold
    predictions, scores = out_of_fold(of_folds, dataset), dict[str, float]()
    balances = next(iter(of_folds)).score == "balanced-accuracy"
    for model, by_seed in predictions.items():
        correct = by_seed.argmax(axis=2) == labels
        interval = accuracy_interval(correct.sum(axis=0), [*correct.sum(axis=1)], groups)
        accuracy, sizes = float(correct.mean()), np.bincount(labels)
        recall = np.bincount(labels, correct.mean(axis=0))[sizes > 0] / sizes[sizes > 0]
        scores[model] = float(recall.mean()) if balances else accuracy
        balanced = scores[model] if balances else None
        models[model] = OutOfFold(seeds=len(by_seed), accuracy=accuracy, ci95=interval, balanced_accuracy=balanced)
    if models:
        best = max(models, key=scores.__getitem__)
        probabilities = predictions[best].mean(axis=0)
        errors = [_document(error, probabilities, dataset) for error in label_errors(probabilities, labels)]
    return FoldsSummary(
        folds=folds,
        images=len(labels),
        models=models,
        best_model=best,
        num_label_errors=len(errors),
        label_errors=tuple(errors[:MAX_LABEL_ERRORS]),
    )


def out_of_fold(of_folds: Mapping[TrialSpec, Probabilities], dataset: Dataset) -> dict[str, Probabilities]:
    """Return by model what trials predict for all train images, each image by those that were not trained on it:
    [seeds, train images, classes].

    A seed with which a fold was not trained is left out, and a model without any seed. Raises IntegrityError, as
    `folds_summary` does.
    """
    trials, found = defaultdict[tuple[str, int], list[TrialSpec]](list), defaultdict[str, list[Probabilities]](list)
    for spec in of_folds:
        trials[spec.model, spec.seed].append(spec)
    for (model, _), specs in sorted(trials.items()):
        if specs[0].folds is None or len(specs) < specs[0].folds:
            continue
        folds = dataset.folds(specs[0].folds)
        together = np.empty((len(folds), len(dataset.classes)), np.float32)
        for spec in specs:
            inside, probabilities = folds == spec.fold, of_folds[spec]
            expected = int(inside.sum()), len(dataset.classes)
            if probabilities.shape != expected:
                got = f"expected probabilities {[*expected]} of its fold, got {[*probabilities.shape]}"
                raise IntegrityError(f"{spec.id}: {got}; delete its ended.json, then the same command trains it again")
            together[inside] = probabilities
        found[model].append(together)
    return {model: np.stack(seeds) for model, seeds in found.items()}


def label_errors(probabilities: Probabilities, labels: Labels) -> list[Mistake]:
    """Return the images whose label may be wrong, that of the least probable label first, with a class to propose.

    They are the off-diagonal entries of the confident joint of Northcutt, Jiang and Chuang ("Confident Learning:
    Estimating Uncertainty in Dataset Labels", 2021): of the classes whose probability reaches the mean that it has on
    images with this label, the most probable one is another than the label.

    Args:
        probabilities: [images, classes], by models that were not trained on these images.
        labels: [images].
    """
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    counts, sums = (np.bincount(labels, weights, probabilities.shape[1]) for weights in (None, of_label))
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reaching = np.where(probabilities >= thresholds, probabilities, -1.0)
    proposed = reaching.argmax(axis=1)
    rows = np.flatnonzero((reaching.max(axis=1) >= 0) & (proposed != labels))
    rows = rows[np.argsort(of_label[rows], kind="stable")]
    return [Mistake(int(i), int(labels[i]), int(proposed[i]), float(probabilities[i, proposed[i]])) for i in rows]


def shown_errors(summary: FoldsSummary | None, dataset: Dataset, count: int) -> list[Mistake]:
    """Return the first label errors of a summary with the indices of their train images."""
    errors = summary.label_errors[:count] if summary else ()
    hashes = np.array([hash_of_text(error.image) for error in errors], np.uint64).reshape(-1, 2)
    numbers = {name: number for number, name in enumerate(dataset.classes)}
    return [
        Mistake(int(index), numbers[error.label], numbers[error.proposed], error.probability)
        for error, index in zip(errors, indices_of(hashes, dataset.train.hashes), strict=True)
    ]


def _document(error: Mistake, probabilities: Probabilities, dataset: Dataset) -> LabelError:
    return LabelError(
        image=text_of(dataset.train.hashes[error.image]),
        file=dataset.train.file(error.image),
        label=dataset.classes[error.label],
        proposed=dataset.classes[error.predicted],
        probability=error.probability,
        label_probability=float(probabilities[error.image, error.label]),
    )
