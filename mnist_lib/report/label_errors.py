"""Training images whose label may be wrong: those with the lowest margins of the stored trials."""

from collections.abc import Callable, Collection

import numpy as np

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import hash_of_text, indices_of, text_of
from mnist_lib.results import TrialResult
from mnist_lib.run_documents import MAX_LABEL_ERRORS, LabelError, LabelErrors
from mnist_lib.store.margins import MARGINS, Margins

# A label is named if its margin is below 0 and at least so many interquartile ranges below the median one. Nearly all
# labels named so were wrong in `benchmarks.label_errors`; with 2.25, up to 1 in 100 right ones was named.
NAMED = 2.6


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
    sums, counts = np.zeros((2, len(train)))
    for content in files:
        margins = Margins.read(content, MARGINS)
        rows = indices_of(margins.hashes, train.hashes)
        sums[rows] += margins.deviations
        counts[rows] += 1
    deviations = sums / np.maximum(counts, 1)
    named = np.flatnonzero(deviations >= NAMED)
    named = named[np.argsort(-deviations[named], kind="stable")]
    if len(named):
        train = dataset().train  # with the names of the files
    first = tuple(
        LabelError(
            image=text_of(train.hashes[row]),
            file=train.file(row),
            label=facts.classes[train.labels[row]],
            deviation=float(deviations[row]),
        )
        for row in named[:MAX_LABEL_ERRORS]
    )
    return LabelErrors(count=len(named), first=first)


def suspects(errors: LabelErrors | None, dataset: Dataset, count: int) -> list[int]:
    """Return the first of the label errors as indices of train images."""
    first = errors.first[:count] if errors else ()
    hashes = np.array([hash_of_text(error.image) for error in first], np.uint64).reshape(-1, 2)
    return [row for row in indices_of(hashes, dataset.train.hashes).tolist() if row >= 0]
