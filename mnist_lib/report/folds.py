"""What folds tell: how accurate models are on the images of training and validation.

Each image is predicted by trials that were not trained on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.dataset import Dataset
from mnist_lib.intervals import accuracy_interval
from mnist_lib.run_documents import FoldsSummary, OutOfFold
from mnist_lib.spec import TrialSpec

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
    trials, found = defaultdict[tuple[str, int], list[TrialSpec]](list), defaultdict[str, list[Probabilities]](list)
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
