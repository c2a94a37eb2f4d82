import numpy as np
import pytest

from mnist_lib.result import Accuracy, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.tally import Tally

LABELS = np.array([0, 1, 2, 3], np.uint8)


def result(seed: int, *, predicted: list[int], sure: float = 0.9, validation: int | None = 5) -> TrialResult:
    probabilities = np.full((4, 10), (1 - sure) / 9, np.float32)
    probabilities[np.arange(4), predicted] = sure
    return TrialResult(
        trial=f"keras-s{seed}",
        spec=TrialSpec.of("keras", seed=seed),
        test=Accuracy(int((np.array(predicted) == LABELS).sum()), 4),
        validation=None if validation is None else Accuracy(validation, 10),
        best_epoch=1,
        train_seconds=1.0,
        images_per_second=1.0,
        setup_seconds=1.0,
        replicas=1,
        devices=("CPU:0",),
        gpus=(),
        node="here",
        weights_sha256="",
        probabilities=probabilities,
        files={},
    )


def tally_of(*results: TrialResult) -> Tally:
    tally = Tally()
    for each in results:
        tally.add(each)
    return tally


def test_the_chosen_trial_is_the_best_on_validation_not_on_test() -> None:
    tally = tally_of(
        result(0, predicted=[0, 1, 2, 3], validation=4),
        result(1, predicted=[0, 0, 0, 0], validation=6),
    )
    assert tally.chosen is not None
    assert tally.chosen.trial == "keras-s1"
    assert tally.highest == 1.0


@pytest.mark.parametrize("validation", [5, None])
def test_of_equals_the_lowest_seed_is_chosen_in_whatever_order_they_come(validation: int | None) -> None:
    first, second = (result(seed, predicted=[0, 1, 2, 3], validation=validation) for seed in (0, 1))
    for order in ((first, second), (second, first)):
        chosen = tally_of(*order).chosen
        assert chosen is not None
        assert chosen.trial == "keras-s0"


def test_the_ensemble_is_of_mean_probabilities_not_of_votes() -> None:
    """Two hesitant mistakes are outvoted by one sure trial."""
    wrong, right = [1, 1, 1, 1], [0, 1, 2, 3]
    tally = tally_of(
        *(result(seed, predicted=wrong, sure=0.3) for seed in (0, 1)), result(2, predicted=right, sure=0.9)
    )
    assert tally.ensemble(LABELS) == Accuracy(4, 4)
    assert tally.statistics.count == 3
