"""The learning rate over a training."""

import numpy as np
import pytest

from mnist_lib.schedules import learning_rates


def test_constant_is_the_same_at_every_step() -> None:
    assert learning_rates("constant", 0.5, 3).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_one_cycle_goes_up_then_down_and_never_stands_still_at_nothing(steps: int) -> None:
    rates = learning_rates("one-cycle", 0.5, steps)
    top = int(rates.argmax())
    assert len(rates) == steps
    assert 0 < rates.min() <= rates.max() <= 0.5
    assert (np.diff(rates[: top + 1]) >= 0).all()
    assert (np.diff(rates[top:]) <= 0).all()


def test_one_cycle_has_its_peak_after_a_quarter_of_the_steps() -> None:
    rates = learning_rates("one-cycle", 0.5, 999)
    assert rates.argmax() == 249
    assert rates.max() == 0.5
