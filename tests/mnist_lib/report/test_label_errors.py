"""Labels that may be wrong: those with low margins in the stored trials."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table, text_of
from mnist_lib.report.aggregation import label_errors, suspects
from mnist_lib.results import Accuracy, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store.margins import MARGINS, Margins
from tests.support.results import trial_result

MEANS = np.array([-4, -0.9, *[4, 5, 6] * 7, 4], np.float32)  # the quartiles are 4, 5 and 6
IMAGES = len(MEANS)


def dataset_of(images: int) -> Dataset:
    rng = np.random.default_rng(0)
    train, test = (
        Table.of(rng.integers(0, 256, (n, 2, 2, 1), np.uint8), rng.integers(0, 3, n).astype(np.uint8))
        for n in (images, 5)
    )
    dataset = Dataset.of("x", "1", train, test, ("a", "b", "c"))
    files = np.array([[*f"a/{n:04d}.png".encode()] for n in range(images + 5)], np.uint8)
    return replace(dataset, table=replace(dataset.table, files=files))


def result() -> TrialResult:
    probabilities = np.full((5, 3), 1 / 3, np.float32)
    fields: Any = {"test": Accuracy(1, 5), "validation": None, "history": (), "probabilities": probabilities}
    return trial_result(TrialSpec.of("keras"), **fields)


def with_margins(dataset: Dataset, means: NDArray[Any]) -> TrialResult:
    sums = np.stack([np.nan_to_num(means), np.isfinite(means)]).astype(np.float32)
    margins = Margins.of(sums, dataset.train)
    return structs.replace(result(), files={MARGINS: margins.file()})


def test_labels_with_margins_far_below_the_others_are_named_the_lowest_first() -> None:
    dataset = dataset_of(IMAGES)
    errors = label_errors([with_margins(dataset, MEANS)], dataset, lambda: dataset)
    assert errors is not None
    assert errors.count == 2
    assert (errors.first[0].image, errors.first[0].file) == (text_of(dataset.train.hashes[0]), "a/0000.png")
    assert [error.deviation for error in errors.first] == pytest.approx([4.5, 2.95])
    assert errors.first[0].label == dataset.classes[dataset.train.labels[0]]
    assert suspects(errors, dataset, 1) == [0]
    assert suspects(None, dataset, 5) == []


def test_an_image_has_the_mean_of_its_deviations_in_the_trials_that_were_trained_on_it() -> None:
    """The second network has logits ten times as large, and was not trained on the second image."""
    dataset = dataset_of(IMAGES)
    other = 10 * np.array([5, np.nan, -1, *MEANS[3:-1], -4])
    errors = label_errors([with_margins(dataset, MEANS), with_margins(dataset, other)], dataset, lambda: dataset)
    assert errors is not None
    assert [error.file for error in errors.first] == ["a/0001.png"]  # of the others, the mean is lower
    errors = label_errors([with_margins(dataset, other)], dataset, lambda: dataset)
    assert errors is not None
    assert [error.file for error in errors.first] == [f"a/{IMAGES - 1:04d}.png", "a/0002.png"]


def test_trials_without_margins_and_networks_that_learn_nothing_are_no_error() -> None:
    dataset = dataset_of(IMAGES)
    assert label_errors([result()], dataset, lambda: dataset) is None
    for means in (np.zeros(IMAGES), np.resize([5, 5, -4], IMAGES), 6 + MEANS):  # in the last one, all are above 0
        nothing = label_errors([with_margins(dataset, means)], dataset, lambda: dataset)
        assert nothing is not None
        assert nothing.count == 0
