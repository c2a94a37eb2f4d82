import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.results import Accuracy, Balanced, EpochDone, add_epoch

counts = st.integers(0, 10**6).flatmap(lambda total: st.builds(Accuracy, st.integers(0, total), st.just(total)))


@given(counts, counts, counts)
def test_the_addition_of_accuracies_is_associative_and_has_a_zero(a: Accuracy, b: Accuracy, c: Accuracy) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + Accuracy(0, 0) == a


def test_the_accuracy_of_a_sum_is_not_the_mean_of_accuracies() -> None:
    full, short = Accuracy(50, 100), Accuracy(1, 1)
    assert (full + short).value == pytest.approx(51 / 101)


def balanced(probabilities: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> Accuracy:
    from mnist_lib.training.prediction import accuracy_of

    return accuracy_of(probabilities, labels, sizes)


@pytest.mark.usefixtures("tensorflow")
def test_balanced_counts_of_parts_add_up_to_the_mean_of_the_recalls_of_all_images() -> None:
    generator = np.random.default_rng(0)
    labels = generator.choice(4, 400, p=[0.9, 0.06, 0.04, 0]).astype(np.uint8)  # the last class has no image
    probabilities = generator.random((400, 4)).astype(np.float32) + 0.4 * np.eye(4, dtype=np.float32)[labels]
    right, sizes = probabilities.argmax(axis=1) == labels, np.bincount(labels, minlength=4)
    expected = np.mean([right[labels == label].mean() for label in range(3)])
    assert abs(expected - right.mean()) > 0.01
    parts = [balanced(probabilities[part::5], labels[part::5], sizes) for part in range(5)]
    together = sum(parts, Accuracy(0, 0))
    assert (together.correct, together.total) == (right.sum(), 400)
    assert together.score == pytest.approx(expected, abs=1e-12)
    assert balanced(np.eye(4)[labels], labels, sizes).score == 1.0
    mean = np.mean([part.score for part in parts])
    assert abs(mean - expected) > 1e-4  # so the parts are not divided one by one


def test_equal_balanced_counts_are_as_close_as_equal_counts() -> None:
    """Classes of equal size: the balanced accuracy is the accuracy, and so is its standard error."""
    for correct in range(90, 101):
        accuracies = [Accuracy(n, 100, Balanced(n / 50, 2.0, 100 / 50**2)) for n in (correct, 97)]
        plain = [Accuracy(n.correct, n.total) for n in accuracies]
        assert accuracies[0].score == plain[0].score
        assert accuracies[0].is_close_to(accuracies[1]) == plain[0].is_close_to(plain[1])


def test_the_accuracy_of_nothing_is_not_a_number() -> None:
    assert math.isnan(Accuracy(0, 0).value)


@given(counts)
def test_an_interval_contains_its_accuracy_and_is_within_0_and_1(accuracy: Accuracy) -> None:
    low, high = accuracy.interval()
    assert 0 <= low <= high <= 1
    if accuracy.total:
        assert low - 1e-12 <= accuracy.value <= high + 1e-12


def test_the_interval_is_that_of_wilson() -> None:
    # R: prop.test(9800, 10000, correct = FALSE)$conf.int
    assert Accuracy(9_800, 10_000).interval() == pytest.approx((0.9770661, 0.9825653), abs=1e-7)


def epoch(number: int, loss: float, validation: Accuracy | None = None) -> EpochDone:
    return EpochDone(trial="t", epoch=number, loss=loss, train=Accuracy(1, 3), validation=validation, seconds=0.1)


def test_a_later_attempt_replaces_epochs_and_one_after_a_gap_is_left_out() -> None:
    epochs: list[EpochDone] = []
    for done in (epoch(1, 0.1), epoch(2, 0.2), epoch(3, 0.3), epoch(2, 0.4), epoch(5, 0.5)):
        add_epoch(epochs, done)
    assert [(done.epoch, done.loss) for done in epochs] == [(1, 0.1), (2, 0.4), (3, 0.3)]
