"""How often chance replaces the champion: the sum over all comparisons, in simulated years, and in the log."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.promotion import RULE, better_from, equal, simulate
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import Accuracy
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.comparison import mcnemar
from mnist_lib.store.champions.promotion import SUM, Budget, Rule
from tests.support.store.invariants import champions
from tests.support.store.scenarios import published

YEARS = 40  # benchmarks/README.md has the record of 1,000


@pytest.mark.parametrize("total", [0.05, 0.01, 0.5])
def test_all_comparisons_together_spend_less_than_the_total_however_many_follow(total: float) -> None:
    levels = [Budget(total, comparisons).next_alpha for comparisons in range(10_000)]
    # Those that follow: the integral of 1 / (x ln(x)^2) from n is 1 / ln(n).
    rest = total / SUM / math.log(10_000)
    assert 0.99 * total < sum(levels) + rest <= total
    assert Budget(total, 10_000).left == pytest.approx(total - sum(levels))
    assert levels == sorted(levels, reverse=True)


def test_after_a_year_of_nights_a_comparison_is_still_made_at_a_level_that_a_clear_difference_reaches() -> None:
    budget = Budget(RULE.alpha)
    for _ in range(365):
        budget = budget.after_comparison()
    assert mcnemar(66, 20) < budget.next_alpha < mcnemar(60, 20)


def test_the_comparisons_of_a_log_spend_what_the_budget_says(tmp_path: Path) -> None:
    objects, budget = LocalObjects(tmp_path), Budget(RULE.alpha)
    promote(objects, published(objects, 100), Rule())
    for right in (99, 101, 120, 102):
        budget = budget.after_comparison()
        assert promote(objects, published(objects, right), Rule()).budget == budget
    assert champions(objects)[-1].budget == budget


@pytest.mark.slow
@pytest.mark.long
def test_equal_challengers_are_promoted_in_at_most_one_year_of_twenty() -> None:
    found = [simulate(seed, 0.02, equal(0.02)) for seed in range(YEARS)]
    # Of 40 years with a probability of 5%, more than 6 have a false promotion with a probability of 0.3%.
    assert sum(year.false_promotions > 0 for year in found) <= 6
    # Of 40 intervals that cover with a probability of 95%, fewer than 34 do so with a probability of 0.3%.
    assert sum(year.covered for year in found) >= 34


@pytest.mark.parametrize(("night", "share"), [(1, 0.9), (30, 0.8)])
def test_a_challenger_with_a_third_fewer_errors_is_promoted_within_three_nights(night: int, share: float) -> None:
    found = [simulate(seed, 0.02, better_from(night, 0.02)) for seed in range(YEARS)]
    assert sum(year.promoted_within is not None for year in found) >= share * YEARS
    assert sum(year.covered for year in found) >= 34


@pytest.mark.parametrize("models", [1, 10, 100])
def test_the_interval_of_the_best_of_many_equal_models_covers_their_accuracy(models: int) -> None:
    counts = np.random.default_rng(0).binomial(10_000, 0.98, size=(2_000, models)).max(axis=1)
    covered = [low <= 0.98 <= high for low, high in (Accuracy(int(c), 10_000).interval(models) for c in counts)]
    assert np.mean(covered) >= 0.94
    plain = [low <= 0.98 <= high for low, high in (Accuracy(int(c), 10_000).interval() for c in counts)]
    assert models < 10 or np.mean(plain) < 0.85
