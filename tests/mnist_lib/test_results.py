import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_lib.results import Accuracy

counts = st.integers(0, 10**6).flatmap(lambda total: st.builds(Accuracy, st.integers(0, total), st.just(total)))


@given(counts, counts, counts)
def test_the_addition_of_accuracies_is_associative_and_has_a_zero(a: Accuracy, b: Accuracy, c: Accuracy) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + Accuracy(0, 0) == a


def test_the_accuracy_of_a_sum_is_not_the_mean_of_accuracies() -> None:
    full, short = Accuracy(50, 100), Accuracy(1, 1)
    assert (full + short).value == pytest.approx(51 / 101)


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
