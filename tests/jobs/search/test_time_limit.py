"""Searches with a time limit: they end in time for the final trials, with the decisions of smaller ones."""

import json
import random

import pytest

from jobs.search.time_limit import RESERVED_SECONDS
from mnist_lib.documents import encode
from mnist_lib.results import Accuracy
from tests.support.simulation.searches import SimulatedSearch, give, plan, search_of, winner
from tests.support.simulation.trials import Durations, epoch_of
from tests.support.store.faulty import Faulty, KilledError


def test_with_folds_the_winner_at_the_deadline_is_the_best_on_the_folds_that_are_known() -> None:
    world = SimulatedSearch(plan(folds=3, epochs=27), 2, epoch=10.0)
    with pytest.raises(KilledError):
        world.drive(Faulty(world.storage, 200, KilledError, late=False))
    world.cluster.connect()
    world.deadline = world.clock.now  # an interruption has used up the time
    search = world.drive()
    known = {int(number): Accuracy(**score) for number, score in world.document["unfinished"].items()}
    assert search.is_done
    assert (world.document["decisions"], len(known)) == ([], 9)
    assert len({score.total for score in known.values()}) == 2  # some are known on one fold, some on two
    assert known[winner(search)].value == max(score.value for score in known.values())
    world.deadline = float("inf")
    assert winner(world.drive()) == winner(search)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_a_search_ends_in_time_for_its_final_trials(seed: int) -> None:
    chance = random.Random(seed)
    epoch, lanes = chance.choice([1.0, 5.0, 20.0]), chance.choice([1, 2, 4])
    given = plan(final_seeds=3)
    deadline = chance.uniform(300, 3_000) + 60 * epoch
    world = SimulatedSearch(given, lanes, deadline, epoch=epoch)
    search = world.drive()
    assert search.is_done
    winner(search)
    final = -(-given.options.final_seeds // lanes) * given.options.epochs * epoch
    assert world.clock.now + final <= deadline
    assert world.document == json.loads(encode(search.document()))


@pytest.mark.parametrize(
    ("folds", "deadline", "importing", "least"),
    [(None, 2_000, 5.0, 60), (3, 2_000, 5.0, 12), (3, 900, 5.0, 4), (None, 2_000, 100.0, 50)],
)
def test_with_a_time_limit_alone_brackets_follow_until_the_time_is_used(
    folds: int | None, deadline: float, importing: float, least: int
) -> None:
    given = plan(trials=None, max_seconds=deadline, folds=folds, final_seeds=1)
    world = SimulatedSearch(given, 1, deadline, epoch=5.0, importing=importing)
    search = world.drive()
    cut = world.document["cut"]
    final = given.options.epochs * 5.0
    assert not cut["over"]  # all that has begun was completed
    assert cut["configurations"] == len(world.document["configurations"]) >= least
    start = importing + Durations().compiling  # of the lane of the final trial, slow on a busy machine
    assert 0.75 * deadline < world.clock.now + start + final + RESERVED_SECONDS <= deadline
    assert search.progress.totals()[0] == "{0} of up to {0} configurations begun".format(cut["configurations"])
    assert world.drive().document() == search.document()


def test_a_search_that_a_time_limit_ends_equals_one_of_as_many_configurations() -> None:
    world = SimulatedSearch(plan(trials=None, max_seconds=700.0), 2, 700.0, epoch=5.0)
    document = world.drive_until_it_ends([40, 60]).document()
    assert document.cut is not None
    again = SimulatedSearch(plan(trials=document.cut.configurations), 1)
    assert again.drive().document().decisions[: len(document.decisions)] == document.decisions


def test_a_search_that_was_cut_is_not_continued_when_it_is_resumed() -> None:
    world = SimulatedSearch(plan(), 2, deadline=400.0, epoch=10.0)
    cut = world.drive().document()
    assert cut.cut is not None
    world.clock.sleep(10.0)
    world.deadline = float("inf")
    again = world.drive()
    assert again.document().decisions[: len(cut.decisions)] == cut.decisions
    assert again.document().cut == cut.cut


def test_without_a_complete_rung_the_best_so_far_wins_at_the_deadline() -> None:
    given = plan(strategy="random", epochs=100)
    world = SimulatedSearch(given, 2, deadline=3_000.0, epoch=10.0)
    search = world.drive()
    assert search.is_done
    assert winner(search) in (0, 1)
    assert world.document["decisions"] == []
    assert str(winner(search)) in world.document["unfinished"]
    world.deadline = float("inf")
    assert winner(world.drive()) == winner(search)


def test_nothing_is_left_of_configurations_that_a_deadline_cut() -> None:
    world = SimulatedSearch(plan(checkpoint_seconds=0), 2, deadline=450.0, epoch=10.0)
    world.drive().delete_checkpoints()
    assert not [name for name in world.storage.content if "/checkpoints/" in name]


def test_a_resumed_search_whose_time_is_done_trains_nothing() -> None:
    world = SimulatedSearch(plan(), 2, deadline=10_000.0, epoch=10.0)
    with pytest.raises(KilledError):
        world.drive(Faulty(world.storage, 120, KilledError, late=False))
    world.cluster.connect()
    world.clock.sleep(20_000.0)
    before = world.clock.now
    assert world.drive().is_done
    assert world.clock.now == before


def test_the_speed_of_a_first_epoch_is_measured_without_the_wait_before_it() -> None:
    world = SimulatedSearch(plan(), lanes=1)
    search = search_of(world.plan, world.storage)
    now = 0.0
    search._time.wall = lambda: now
    for at, epoch in ((50.0, 1), (53.0, 2)):
        now = at
        give(search, epoch_of(search.trial(0), epoch, seconds=2.0))
    assert [*search._time._first_seconds, *search._time._later_seconds] == [2.0, 3.0]
