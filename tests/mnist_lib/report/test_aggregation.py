import pytest

from mnist_lib.report.aggregation import seed_statistics
from mnist_lib.results import Accuracy
from tests.support.made_run import FOUR_LABELS, small_result, tally_of


def test_one_seed_has_a_mean_but_no_deviation() -> None:
    statistics = seed_statistics([0.9])
    assert (statistics.mean, statistics.std, statistics.ci95) == (0.9, None, None)


def test_the_interval_over_seeds_is_that_of_students_t() -> None:
    statistics = seed_statistics([0.97, 0.98, 0.99])
    assert statistics.std == pytest.approx(0.01)
    assert statistics.ci95 == pytest.approx((0.98 - 4.30265 * 0.01 / 3**0.5, 1.0), abs=1e-6)  # cut at 1


def test_the_chosen_trial_is_the_best_on_validation_not_on_test() -> None:
    tally = tally_of(
        small_result(0, predicted=[0, 1, 2, 3], validation=4), small_result(1, predicted=[0, 0, 0, 0], validation=6)
    )
    assert tally.chosen.trial == "keras-s1"
    assert tally.highest == 1.0


@pytest.mark.parametrize("validation", [5, None])
def test_the_lowest_seed_of_equally_good_trials_is_chosen_in_either_order(validation: int | None) -> None:
    first, second = (small_result(seed, predicted=[0, 1, 2, 3], validation=validation) for seed in (0, 1))
    for order in ((first, second), (second, first)):
        assert tally_of(*order).chosen.trial == "keras-s0"


def test_the_ensemble_averages_probabilities_and_does_not_count_votes() -> None:
    """One confident trial outweighs two hesitant ones."""
    wrong, correct = [1, 1, 1, 1], [0, 1, 2, 3]
    hesitant = [small_result(seed, predicted=wrong, confidence=0.3) for seed in (0, 1)]
    tally = tally_of(*hesitant, small_result(2, predicted=correct, confidence=0.9))
    assert tally.ensemble(FOUR_LABELS) == Accuracy(4, 4)
    assert tally.statistics.count == 3
