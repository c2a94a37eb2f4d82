"""Proposals of configurations from the scores of earlier ones."""

import math
import statistics

import pytest

from mnist_lib.errors import SpecError
from mnist_lib.results import Accuracy
from mnist_lib.search.halving import Halving, Ladder
from mnist_lib.search.proposals import LAG, TpeProposals, require_optuna
from mnist_lib.search.space import Space

SPACE = Space.parse({"learning_rate": "1e-5..1e-1:log", "hidden_units": "16..64", "optimizer": "sgd,adam"}, None)


def score_of(settings: dict[str, object]) -> Accuracy:
    """Return a score that is highest at a learning rate of 0.003 with adam."""
    distance = abs(math.log10(float(str(settings["learning_rate"])) / 0.003))
    return Accuracy(max(0, round(10_000 - 2_000 * distance - (500 if settings["optimizer"] == "sgd" else 0))), 10_000)


def searched(brackets: int) -> tuple[Halving, list[dict[str, object]]]:
    halving = Halving(9 * brackets, Ladder.halving(9), lag=LAG)
    propose, settings = TpeProposals(SPACE, 0, halving), dict[int, dict[str, object]]()
    while step := halving.next_step():
        settings[step.configuration] = dict(propose(step.configuration))
        halving.record(step, score_of(settings[step.configuration]))
    return halving, [settings[number] for number in sorted(settings)]


def test_proposals_come_closer_to_the_best_settings_and_stay_in_the_space() -> None:
    halving, settings = searched(8)
    assert halving.is_complete
    distances = [abs(math.log10(float(str(one["learning_rate"])) / 0.003)) for one in settings]
    assert statistics.median(distances[-18:]) < 0.6 * statistics.median(distances[:18])
    assert {type(one["hidden_units"]) for one in settings} == {int}
    assert all(1e-5 <= float(str(one["learning_rate"])) <= 0.1 for one in settings)


def test_the_same_scores_give_the_same_proposals() -> None:
    assert searched(4)[1] == searched(4)[1]


def test_a_bracket_waits_for_the_one_two_places_before_it() -> None:
    halving = Halving(27, Ladder.halving(9), lag=LAG)
    steps = [step for _ in range(18) if (step := halving.next_step())]
    assert [step.bracket for step in steps] == [0] * 9 + [1] * 9
    assert halving.next_step() is None
    for step in steps[:9]:
        halving.record(step, Accuracy(step.configuration, 10))
    assert [halving.next_step() for _ in range(4)][3] is None  # three survivors, but nothing of the third bracket


def test_without_optuna_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(SpecError, match=r'install it: pip install "mnist-jobs\[search\]"'):
        require_optuna()
