"""The interval of the mean accuracy of trials."""

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.intervals import MAX_WIDTH, MIN_COVERAGE, simulate
from mnist_lib.intervals import accuracy_interval, balanced_interval, student_t_quantile
from mnist_lib.results import Accuracy


@pytest.mark.parametrize(
    ("degrees", "quantile"),  # qt(0.975, degrees)
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (120, 1.97993)],
)
def test_the_quantiles_of_students_t_are_those_of_published_tables(degrees: int, quantile: float) -> None:
    assert student_t_quantile(0.975, degrees) == pytest.approx(quantile, abs=1e-4)


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_the_interval_of_one_seed_is_wilsons(answers: list[bool]) -> None:
    wilsons = pytest.approx(Accuracy(sum(answers), len(answers)).interval())
    assert accuracy_interval(np.array(answers)) == wilsons
    assert accuracy_interval(np.array(answers), [sum(answers)], np.arange(len(answers), dtype=np.int32)) == wilsons


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32))
def test_an_interval_is_never_empty_and_contains_the_mean(trials: int, images: int, groups: int, seed: int) -> None:
    random = Random(seed)
    share = random.choice([0, 0.5, 0.9, 1])
    answers = np.array([[random.random() < share for _ in range(images)] for _ in range(trials)])
    group = np.array([random.randrange(groups) for _ in range(images)], np.int32)
    for own in (None, group):
        low, high = accuracy_interval(answers.sum(axis=0), answers.sum(axis=1).tolist(), own)
        assert 0 <= low <= answers.mean() <= high <= 1
        assert high - low > 0.01


def test_seeds_that_agree_on_each_image_count_as_one_seed() -> None:
    answers = np.arange(200) % 10 > 0
    one = accuracy_interval(answers)
    assert accuracy_interval(5 * answers, 5 * [int(answers.sum())]) == pytest.approx(one, abs=1e-3)


def test_seeds_that_differ_widen_the_interval_of_their_mean() -> None:
    """Three seeds with 50, 90 and 100% of 1,000 images: the images alone would give 80% to 83%."""
    correct = 1 + (np.arange(1_000) < 900).astype(int) + (np.arange(1_000) < 500)
    low, high = accuracy_interval(correct, [1_000, 900, 500])
    assert high - low > 0.3


def test_equal_images_in_a_group_count_as_one_image() -> None:
    """40 objects of 25 equal images have the interval of 40 images, except for Student's t."""
    objects = np.arange(40) % 4 > 0
    groups = np.repeat(np.arange(40, dtype=np.int32), 25)
    low, high = accuracy_interval(np.repeat(objects, 25), groups=groups)
    alone = accuracy_interval(objects)
    assert (low, high) == pytest.approx(alone, abs=0.01)
    assert low < alone[0] < alone[1] < high


def test_groups_that_do_not_matter_leave_the_interval_as_it_is() -> None:
    """Each group has the same share of wrong answers, so its images are no more alike than others."""
    answers, groups = (np.arange(1_000) % 10 > 0, np.repeat(np.arange(100, dtype=np.int32), 10))
    assert accuracy_interval(answers, groups=groups) == pytest.approx(accuracy_interval(answers), abs=0.001)
    assert accuracy_interval(np.ones(1_000, bool), groups=groups) == pytest.approx(
        Accuracy(100, 100).interval(), abs=0.002
    )


@pytest.mark.parametrize(
    ("seeds", "images", "accuracy"), [(1, 300, 0.97), (2, 100, 0.9), (3, 1_000, 0.7), (5, 100, 0.995), (5, 300, 0.995)]
)
def test_the_interval_covers_the_true_accuracy_and_is_not_much_wider_than_needed(
    seeds: int, images: int, accuracy: float
) -> None:
    found = simulate(seeds, images, accuracy, repetitions=400)
    assert found.coverage >= MIN_COVERAGE
    assert found.width <= MAX_WIDTH


@pytest.mark.parametrize(
    ("recalls", "sizes"),
    [
        ([0.99] * 9 + [0.8], [500] * 9 + [20]),
        ([0.95, 0.5], [190, 10]),
        ([0.9] * 10, [50] * 10),
        ([0.99, 0.6], [500, 10]),
        (np.linspace(0.5, 0.99, 10), np.linspace(10, 200, 10).astype(int)),
    ],
)
def test_the_interval_of_a_balanced_accuracy_covers_the_truth_whatever_sizes_and_recalls(
    recalls: Any, sizes: Any
) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    intervals = [
        balanced_interval(random.random(len(labels)) < np.array(recalls)[labels], labels)[1] for _ in range(400)
    ]
    covered = np.mean([low <= np.mean(recalls) <= high for low, high in intervals])
    assert 0.91 <= covered <= 1.0


def test_the_interval_of_a_balanced_accuracy_counts_a_group_once_and_is_never_empty() -> None:
    labels, right = np.repeat([0, 1], 50), np.ones(100, bool)
    groups = np.repeat(np.arange(10, dtype=np.int32), 10)
    alone, (low, high) = balanced_interval(right, labels, groups)
    assert (alone, high) == (1.0, 1.0)
    plainly = balanced_interval(right, labels)[1]
    assert low < plainly[0] - 0.1
    one = balanced_interval(np.array([True, False]), np.array([0, 1]))
    assert one[0] == 0.5
    assert one[1][0] < 0.1
    assert one[1][1] > 0.9


def test_an_accuracy_that_was_selected_from_many_has_a_lower_interval() -> None:
    correct = np.arange(200) < 180
    plain, selected = accuracy_interval(correct), accuracy_interval(correct, selected_from=30)
    assert plain == pytest.approx(Accuracy(180, 200).interval())
    assert selected == pytest.approx(Accuracy(180, 200).interval(30))
