"""Successive halving: its rungs, and decisions that depend on the scores alone."""

import random
from dataclasses import replace

import pytest

from jobs.search.halving import Halving, Ladder, Step, winner
from mnist_lib.errors import SpecError
from mnist_lib.results import Accuracy, Balanced


@pytest.mark.parametrize(
    ("epochs", "rungs", "bracket"),
    [(1, (1,), 1), (5, (1, 2, 5), 9), (9, (1, 3, 9), 9), (27, (3, 9, 27), 9), (80, (9, 27, 80), 9)],
)
def test_each_rung_trains_a_third_for_three_times_as_long(epochs: int, rungs: tuple[int, ...], bracket: int) -> None:
    assert Ladder.halving(epochs) == Ladder(rungs, bracket)


def test_the_epochs_of_a_search_are_those_of_its_steps() -> None:
    ladder = Ladder.halving(9)
    assert ladder.epochs_of(9) == 9 * 1 + 3 * 2 + 2 * 6
    assert ladder.epochs_of(11) == 27 + 2 * 1 + 1 * 2 + 1 * 6
    assert replace(ladder, folds=5).epochs_of(11) == 5 * ladder.epochs_of(11)
    for count in range(1, 30):
        ladder = replace(ladder, folds=1 + count % 3)
        halving = Halving(count, ladder)
        search(halving, random.Random(count), failing=0)
        assert halving.epochs == ladder.epochs_of(count)
        assert ladder.fitting(ladder.epochs_of(count), 1_000) == count


def score_of(step: Step, seed: int, failing: float) -> Accuracy | None:
    """Return a score that grows with the rung, or None for a share of the configurations."""
    chance = random.Random(f"{seed} {step.configuration} {step.fold}")
    if chance.random() < failing:
        return None
    return Accuracy(chance.randint(0, 40) + chance.randint(0, 5) * (5 - step.rungs_left), 100 + step.fold)


def search(halving: Halving, order: random.Random, seed: int = 0, failing: float = 0.1) -> None:
    """Search, with scores that come in a random order."""
    running: list[Step] = []
    while not halving.is_complete:
        while (step := halving.next_step()) is not None:
            running.append(step)
            if order.random() < 0.2:
                break
        chosen = running.pop(order.randrange(len(running)))
        halving.record(chosen, score_of(chosen, seed, failing))


@pytest.mark.parametrize("folds", [1, 3])
def test_decisions_do_not_depend_on_the_order_of_the_scores(folds: int) -> None:
    for seed in range(20):
        found = []
        for order in range(10):
            halving = Halving(23, replace(Ladder.halving(9), folds=folds))
            search(halving, random.Random(order), seed)
            found.append((halving.decisions, halving.best()))
        assert all(one == found[0] for one in found)


def test_the_best_third_of_a_rung_goes_on_and_in_a_tie_the_lower_number() -> None:
    halving = Halving(9, Ladder.halving(9))
    steps = [halving.next_step() for _ in range(9)]
    assert halving.next_step() is None  # no later rung begins before this one is complete
    correct = [5, 7, 7, 1, 7, 7, 0, 2, 9]
    decisions = [halving.record(step, Accuracy(right, 10)) for step, right in zip(steps, correct, strict=True) if step]
    assert decisions[:8] == [None] * 8
    assert decisions[8] is not None
    assert decisions[8].survivors == (8, 1, 0)  # two of eight and the defaults, whatever their score
    following = [halving.next_step() for _ in range(3)]
    assert [step.configuration for step in following if step] == [0, 1, 8]
    assert [halving.epochs_of(step) for step in following if step] == [3, 3, 3]
    assert not halving.is_complete


def test_a_configuration_goes_on_by_all_images_of_its_folds_and_not_by_the_mean_of_their_accuracies() -> None:
    halving = Halving(3, Ladder((1, 3), 3, folds=2))
    correct = {0: (9, 10), 1: (5, 20), 2: (5, 12)}  # of 10 images in the first fold, and of 40 in the second
    steps = [step for _ in range(6) if (step := halving.next_step())]
    assert [(step.fold, step.configuration) for step in steps] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert halving.next_step() is None
    *others, last = [
        halving.record(step, Accuracy(correct[step.configuration][step.fold], (10, 40)[step.fold])) for step in steps
    ]
    assert others == [None] * 5
    assert last is not None
    assert last.scores == {0: Accuracy(19, 50), 1: Accuracy(25, 50), 2: Accuracy(17, 50)}
    assert last.survivors == (1, 0)
    assert [halving.next_step(), halving.next_step()] == [Step(0, 0, 0, 0), Step(0, 0, 0, 1)]
    assert [halving.next_step(), halving.next_step()] == [Step(0, 0, 1, 0), Step(0, 0, 1, 1)]
    assert halving.next_step() is None


def test_a_configuration_that_failed_in_one_fold_neither_goes_on_nor_wins() -> None:
    halving = Halving(3, Ladder((1, 3), 3, folds=2))
    while step := halving.next_step():
        failed = (step.configuration, step.fold) == (2, 1)
        decision = halving.record(step, None if failed else Accuracy(4 * step.configuration, 10))
        if decision is not None and decision.rung == 0:
            assert (decision.scores[2], decision.survivors) == (None, (1, 0))
    assert halving.best() == (1, Accuracy(8, 20))


def test_brackets_that_have_begun_come_first() -> None:
    halving = Halving(18, Ladder.halving(9))
    steps = [step for _ in range(10) if (step := halving.next_step())]
    assert [step.configuration for step in steps] == [*range(10)]
    for step in steps[:9]:
        halving.record(step, Accuracy(step.configuration, 10))
    following = halving.next_step()
    assert following is not None
    assert (following.bracket, following.configuration) == (0, 0)
    assert halving.num_begun == 10


def test_a_bracket_whose_configurations_all_fail_ends() -> None:
    halving = Halving(3, Ladder.halving(2))
    while step := halving.next_step():
        halving.record(step, None)
    assert halving.is_complete
    assert halving.best() is None
    assert [made.survivors for made in halving.decisions] == [()]


def test_dropped_brackets_are_not_trained() -> None:
    halving = Halving(18, Ladder.halving(9))
    first = halving.next_step()
    assert first is not None
    halving.restrict(4)
    halving.put_back([first])
    search(halving, random.Random(0), failing=0)
    assert halving.tried == {*range(4)}
    assert halving.is_complete
    assert halving.epochs == halving.ladder.epochs_of(4)


def test_steps_of_a_bracket_are_made_when_it_begins() -> None:
    halving = Halving(10**6, Ladder.halving(9))
    assert halving.next_step() == Step(0, 2, 0, 0)
    assert len(halving._waiting) == 8


def test_the_defaults_win_unless_another_configuration_is_better_by_more_than_a_standard_error() -> None:
    defaults = Accuracy(850, 1_000)
    assert winner({0: defaults, 1: Accuracy(860, 1_000), 2: Accuracy(840, 1_000)}) == (0, defaults)
    better = Accuracy(861, 1_000)  # the standard error is 10.9 images
    assert winner({0: defaults, 1: better, 2: better}) == (1, better)
    assert winner({0: defaults, 3: Accuracy(88, 100)}) == (0, defaults)  # the standard error is 3.2 points
    assert winner({0: defaults, 3: Accuracy(89, 100)}) == (3, Accuracy(89, 100))
    balanced = Accuracy(850, 1_000, Balanced(8.5, 10.0, 1.0))  # as uncertain as 100 images: 3.6 points
    assert winner({0: balanced, 1: Accuracy(1, 1_000, Balanced(8.8, 10.0, 1.0))}) == (0, balanced)
    assert winner({}) is None


def test_a_configuration_is_compared_with_the_defaults_on_rungs_that_these_have_completed() -> None:
    halving = Halving(3, Ladder((1, 3), 3))
    for step in [step for _ in range(3) if (step := halving.next_step())]:
        halving.record(step, Accuracy(50 + 10 * step.configuration, 100))
    first, second = [step for _ in range(2) if (step := halving.next_step())]
    assert (first.configuration, second.configuration) == (0, 2)
    halving.record(second, Accuracy(90, 100))
    assert halving.best() == (2, Accuracy(70, 100))
    halving.record(first, Accuracy(89, 100))
    assert halving.best() == (0, Accuracy(89, 100))


def test_without_the_defaults_whose_training_failed_the_best_one_wins() -> None:
    halving = Halving(3, Ladder((1, 3), 3))
    while step := halving.next_step():
        halving.record(step, Accuracy(50 + step.configuration, 100) if step.configuration else None)
    assert halving.best() == (2, Accuracy(52, 100))


def test_a_search_needs_at_least_one_configuration() -> None:
    with pytest.raises(SpecError, match="expected at least 1 configuration, got 0"):
        Halving(0, Ladder((3,), 1))
