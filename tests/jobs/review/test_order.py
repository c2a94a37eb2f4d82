"""The order of review: half at random, half by the probability of the label, and the hold-out only at random."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from jobs.review.data import LearnedLabel, ReviewItem
from jobs.review.session import Order
from mnist_lib.data.corrections import Reason


def item(number: int, probability: float | None = None, label: str | None = "3") -> ReviewItem:
    """Return a picture; every fourth is of the hold-out. `probability`: of the class 3, as the model predicts it"""
    probabilities = None if probability is None else np.array([probability, 1 - probability])
    split = "hold-out" if number % 4 == 0 else "training"
    return ReviewItem(f"{number:032x}", f"{number}.png", number, split, label, probabilities=probabilities)  # type: ignore[arg-type]


def filled(of_the_label: list[float], learned: Mapping[int, float] = MappingProxyType({})) -> Order:
    """`learned`: the probability that training gave to the label of a picture, which is always 3."""
    order = Order(("3", "4"), {f"{number:032x}": LearnedLabel("3", value) for number, value in learned.items()})
    for number, probability in enumerate(of_the_label):
        order.add(picture := item(number, probability))
        order.add_prediction(picture)
    return order


def taken(order: Order) -> list[tuple[int, Reason]]:
    return [(int(item.image, 16), why) for item, why in order.take(1_000)]


@pytest.fixture
def order() -> Order:
    return filled([number / 400 for number in np.random.default_rng(0).permutation(400)])


def test_every_picture_is_shown_once(order: Order) -> None:
    assert sorted(number for number, _ in taken(order)) == [*range(400)]


def test_as_many_pictures_are_disputed_as_random_while_there_are_both(order: Order) -> None:
    reasons = [why for _, why in taken(order)]
    assert reasons[:300] == ["random", "disputed"] * 150


def test_no_picture_of_the_hold_out_is_chosen_by_the_model(order: Order) -> None:
    assert {number % 4 for number, why in taken(order) if why == "disputed"} == {1, 2, 3}
    order = filled([0.5] * 40, learned={4: 0.0, 8: 0.0})
    assert sum(number % 4 == 0 for number, why in taken(order) if why == "random") == 10


def test_the_picture_whose_label_is_least_probable_comes_first() -> None:
    order = filled([0.0, 0.8, 0.6, 0.1, 0.5, 0.95])
    assert taken(order)[1] == (3, "disputed")


@pytest.mark.parametrize("label", [None, "7"])  # new, or a class that the model does not predict
def test_without_the_probability_of_its_label_the_least_certain_picture_comes_first(label: str | None) -> None:
    order = Order(("3", "4"))
    for number, probability in ((1, 0.9), (2, 0.02), (3, 0.4)):
        order.add(picture := item(number, probability, label))
        order.add_prediction(picture)
    assert taken(order)[1] == (3, "uncertain")


def test_a_picture_that_the_model_was_trained_on_has_the_probability_of_training() -> None:
    order = filled([0.5, 0.9, 0.9, 0.001, 0.5, 0.9, 0.2, 0.1], learned={5: 0.01, 2: 0.05, 3: 0.8})
    assert taken(order)[1::2][:3] == [(5, "disputed"), (2, "disputed"), (7, "disputed")]
    order = Order(("3", "4"), {item(3).image: LearnedLabel("3", 0.5)})
    for number in range(1, 4):
        order.add(item(number))  # also while the model is loading
    assert [number for number, why in taken(order) if why == "disputed"] == [3]


def test_a_label_that_has_changed_since_training_has_the_probability_of_the_model() -> None:
    order = Order(("3", "4"), {item(number).image: LearnedLabel("4", 0.0) for number in (1, 2, 3)})
    for number, probability in ((1, 0.9), (2, 0.4), (3, 0.2)):
        order.add(picture := item(number, probability))
        order.add_prediction(picture)
    assert taken(order) == [(1, "random"), (3, "disputed"), (2, "random")]


def test_the_random_pictures_of_the_hold_out_do_not_depend_on_the_model() -> None:
    rng = np.random.default_rng(1)
    first, second = (filled([*rng.uniform(0.1, 1, 200)]) for _ in range(2))
    held_out = [[n for n, _ in taken(order) if n % 4 == 0] for order in (first, second)]
    assert held_out[0] == held_out[1]


def test_pictures_are_random_until_the_model_has_predicted_some() -> None:
    order = Order(("3", "4"))
    items = [item(number) for number in range(8)]
    for each in items:
        order.add(each)
    assert order.take(2) == [(items[0], "random"), (items[1], "random")]
    items[7].probabilities = np.array([0.6, 0.4])
    order.add_prediction(items[7])
    assert order.take(1) == [(items[7], "disputed")]


def test_what_the_models_of_a_run_dispute_is_shown_in_its_order_and_never_as_random() -> None:
    order = Order(("3", "4"))
    for number in (8, 5, 4):
        order.add(replace(item(number), is_disputed=True))
    assert taken(order) == [(8, "disputed"), (5, "disputed"), (4, "disputed")]
