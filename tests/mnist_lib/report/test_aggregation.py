import numpy as np
import pytest
from msgspec import structs

from mnist_lib.report.aggregation import deviation
from mnist_lib.results import Accuracy, EpochDone
from tests.support.made_run import FOUR_LABELS, small_result, tally_of


def test_one_seed_has_no_deviation() -> None:
    assert deviation([0.9]) is None
    assert deviation([0.97, 0.98, 0.99]) == pytest.approx(0.01)


def test_the_interval_of_a_tally_is_of_the_answers_to_each_image() -> None:
    """Two trials answer half of the images correctly: the same half, or each the other's."""
    same = tally_of(*(small_result(seed, predicted=[0, 1, 0, 0]) for seed in (0, 1)))
    other = tally_of(small_result(0, predicted=[0, 1, 0, 0]), small_result(1, predicted=[1, 0, 2, 3]))
    assert same.interval(FOUR_LABELS) == pytest.approx(Accuracy(2, 4).interval())
    pairs = np.array([0, 0, 1, 1], np.int32)
    assert same.interval(FOUR_LABELS, pairs)[0] < 0.01 < same.interval(FOUR_LABELS)[0]
    assert other.interval(FOUR_LABELS) == pytest.approx(Accuracy(4, 8).interval())


def test_the_chosen_trial_is_the_best_on_validation_not_on_test() -> None:
    tally = tally_of(
        small_result(0, predicted=[0, 1, 2, 3], validation=4), small_result(1, predicted=[0, 0, 0, 0], validation=6)
    )
    assert tally.chosen.trial == "keras-s1"
    assert max(tally.accuracies) == 1.0


def test_without_validation_images_a_seed_that_has_learned_nothing_is_not_chosen() -> None:
    results = []
    for seed, correct in enumerate((20, 99)):
        result = small_result(seed, predicted=[0, 1, 2, 3], validation=None)
        last = EpochDone(trial="", epoch=1, loss=1.0, train=Accuracy(correct, 100), validation=None, seconds=1.0)
        results.append(structs.replace(result, history=(last,)))
    for order in (results, results[::-1]):
        assert tally_of(*order).chosen.trial == tally_of(*order).best_trial == "keras-s1"


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
    assert len(tally.accuracies) == 3
