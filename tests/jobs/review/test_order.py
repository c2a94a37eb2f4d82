"""The order of review: half at random, half by uncertainty, and the hold-out only at random."""

from dataclasses import replace

import numpy as np
import pytest

from jobs.review.data import ReviewItem
from jobs.review.session import Order
from mnist_lib.data.corrections import Reason


def item(number: int, confidence: float | None = None) -> ReviewItem:
    """Return a picture; every fourth is of the hold-out."""
    probabilities = None if confidence is None else np.array([confidence, 1 - confidence])
    split = "hold-out" if number % 4 == 0 else "training"
    return ReviewItem(f"{number:032x}", f"{number}.png", number, split, "3", probabilities=probabilities)  # type: ignore[arg-type]


def filled(confidences: list[float]) -> Order:
    order = Order()
    for number, confidence in enumerate(confidences):
        order.add(picture := item(number, confidence))
        order.predicted(picture)
    return order


def taken(order: Order) -> list[tuple[int, Reason]]:
    found = []
    while (pair := order.take()) is not None:
        found.append((int(pair[0].image, 16), pair[1]))
    return found


@pytest.fixture
def order() -> Order:
    return filled([0.5 + number / 1_000 for number in np.random.default_rng(0).permutation(400)])


def test_every_picture_is_shown_once(order: Order) -> None:
    assert sorted(number for number, _ in taken(order)) == [*range(400)]


def test_as_many_pictures_are_uncertain_as_random_while_there_are_both(order: Order) -> None:
    reasons = [why for _, why in taken(order)]
    assert reasons[:300] == ["random", "uncertain"] * 150


def test_no_picture_of_the_hold_out_is_chosen_since_it_is_uncertain(order: Order) -> None:
    assert {number % 4 for number, why in taken(order) if why == "uncertain"} == {1, 2, 3}
    assert sum(number % 4 == 0 for number, why in taken(filled([0.5] * 40)) if why == "random") == 10


def test_the_least_certain_picture_comes_first() -> None:
    order = filled([0.9, 0.8, 0.6, 0.7, 0.5, 0.95])
    order.take()
    assert taken(order)[0] == (2, "uncertain")


def test_the_random_pictures_of_the_hold_out_do_not_depend_on_the_model() -> None:
    rng = np.random.default_rng(1)
    first, second = (filled([*rng.uniform(0.1, 1, 200)]) for _ in range(2))
    held_out = [[n for n, _ in taken(order) if n % 4 == 0] for order in (first, second)]
    assert held_out[0] == held_out[1]


def test_pictures_are_random_until_the_model_has_predicted_some() -> None:
    order = Order()
    items = [item(number) for number in range(8)]
    for each in items:
        order.add(each)
    assert [order.take(), order.take()] == [(items[0], "random"), (items[1], "random")]
    items[7].probabilities = np.array([0.6, 0.4])
    order.predicted(items[7])
    assert order.take() == (items[7], "uncertain")


def test_a_picture_that_is_given_back_is_shown_again_for_the_same_reason() -> None:
    order = filled([0.5, 0.6, 0.7, 0.8])
    first, second = order.take(), order.take()
    assert first is not None
    assert second is not None
    for pair in (first, second):
        order.give_back(*pair)
    assert [order.take(), order.take()] == [first, second]


def test_a_picture_that_is_given_back_several_times_is_shown_once_at_a_time(order: Order) -> None:
    for _ in range(5):
        pairs = [order.take() for _ in range(20)]
        for pair in pairs:
            assert pair is not None
            order.give_back(*pair)
        assert len({pair[0].image for pair in pairs if pair is not None}) == 20
    assert sorted(number for number, _ in taken(order)) == [*range(400)]


def test_disputed_pictures_come_first_and_in_their_order() -> None:
    order = filled([0.5, 0.6])
    for number in (8, 5):
        order.add(replace(item(number), answers="keras@1: 4 (97%)"))
    assert taken(order)[:2] == [(8, "disputed"), (5, "disputed")]
