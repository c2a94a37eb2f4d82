"""Champion and challenger answer the same current hold-out, whatever happened to the dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_lib.data.changes import DatasetState
from mnist_lib.errors import IntegrityError, ModelError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.champions.appointment import champion, trained_last
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.champions.test_set import Predict
from mnist_lib.store.datasets import store_state
from mnist_lib.store.versions import Version
from tests.support.store.answering import TEN, answering, first
from tests.support.store.invariants import champions


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def answers(right: Callable[[NDArray[np.intp]], Any], classes: int = 10) -> tuple[Predict, list[int]]:
    """Return a function that predicts images with a version, and the list of positions that it is asked for."""
    asked: list[int] = []

    def predict(version: Version, positions: NDArray[np.intp]) -> NDArray[np.float32]:
        asked.extend(positions.tolist())
        labels = positions % classes
        return np.eye(classes, dtype=np.float32)[np.where(right(positions), labels, (labels + 1) % classes)]

    return predict, asked


def never(version: Version, positions: NDArray[np.intp]) -> NDArray[np.float32]:
    raise AssertionError("every answer is stored")


def test_a_corrected_label_counts_for_both_and_blocks_no_promotion(objects: LocalObjects) -> None:
    promote(objects, answering(objects, first(900)), Rule())
    labels = np.arange(1_000) % 10
    labels[0] = 5  # was 0: the champion's answer becomes wrong
    decision = promote(objects, answering(objects, first(950), labels=labels), Rule(), never)
    assert decision.promote
    assert (decision.statistics["gained"], decision.statistics["lost"]) == (51, 0)


def test_a_new_image_is_predicted_with_the_champion_and_blocks_no_promotion(objects: LocalObjects) -> None:
    promote(objects, answering(objects, first(900)), Rule())
    predict, asked = answers(lambda positions: positions < 0)
    decision = promote(objects, answering(objects, first(950, of=1_001)), Rule(), predict)
    assert (decision.promote, asked) == (True, [1_000])
    assert decision.statistics["gained"] == 50


def test_images_in_another_order_and_fewer_of_them_are_matched_by_their_hashes(objects: LocalObjects) -> None:
    promote(objects, answering(objects, first(900)), Rule())
    images = np.random.default_rng(0).permutation(1_000)[:990]
    decision = promote(objects, answering(objects, images < 950, images=images.tolist()), Rule(), never)
    assert decision.promote
    assert (decision.statistics["gained"], decision.statistics["lost"]) == (int((images[images < 950] >= 900).sum()), 0)


def test_without_a_removed_class_the_answers_are_compared_by_the_names_of_the_classes(objects: LocalObjects) -> None:
    promote(objects, answering(objects, first(900)), Rule())
    nine, images = TEN[1:], [number for number in range(1_000) if number % 10]
    right = np.array(images) < 950
    labels = [number % 10 - 1 for number in images]  # the class "1" has the label 0 now
    decision = promote(objects, answering(objects, right, images=images, labels=labels, classes=nine), Rule(), never)
    assert decision.promote
    assert (decision.statistics["gained"], decision.statistics["lost"]) == (45, 0)
    worse = answering(objects, np.array(images) < 900, images=images, labels=labels, classes=nine)
    assert not promote(objects, worse, Rule(), never).promote


def test_images_of_an_added_class_count_against_a_champion_that_cannot_answer_them(objects: LocalObjects) -> None:
    nine = TEN[:9]
    promote(objects, answering(objects, first(900), classes=nine), Rule())
    predict, asked = answers(lambda positions: positions < 0, classes=9)
    images, labels = range(1_050), [*(np.arange(1_000) % 9), *[9] * 50]
    decision = promote(
        objects, answering(objects, [*first(900), *[True] * 50], images=images, labels=labels), Rule(), predict
    )
    assert (decision.promote, len(asked), decision.statistics["gained"]) == (True, 50, 50)


def test_x2_a_model_of_more_classes_is_not_refused_since_it_sometimes_answers_with_a_new_one(
    objects: LocalObjects,
) -> None:
    """Five classes grow to ten: the challenger takes half of class 4 for class 5, but not among the five classes."""
    promote(objects, answering(objects, first(460, of=500), classes=TEN[:5]), Rule())
    labels = np.append(np.arange(500) % 5, 5 + np.arange(500) % 5)
    right = (np.arange(1_000) % 10 != 4) | (np.arange(1_000) >= 500)
    decision = promote(
        objects, answering(objects, right, labels=labels), Rule(), answers(lambda p: p < 0, classes=5)[0]
    )
    assert decision.promote, decision.why
    assert decision.statistics["lost"] == np.sum(~right[:460])


@pytest.mark.parametrize("classes", [("c", "d"), ("b", "c")])
def test_a_champion_that_knows_one_or_none_of_the_classes_is_compared_on_all_images(
    classes: tuple[str, ...], objects: LocalObjects
) -> None:
    promote(objects, answering(objects, first(90, of=100), classes=("a", "b")), Rule())
    decision = promote(objects, answering(objects, first(95, of=100), classes=classes), Rule(), never)
    assert decision.promote, decision.why
    assert decision.statistics["images"] == 100


def test_a_champion_of_images_of_another_shape_is_compared_on_those_that_it_was_tested_on(
    objects: LocalObjects,
) -> None:
    promote(objects, answering(objects, first(900)), Rule())
    decision = promote(objects, answering(objects, first(950, of=1_200), side=32), Rule(), never)
    assert decision.promote
    assert decision.statistics["images"] == 1_000
    (_, record) = champions(objects, dataset="digits")
    assert record.test is not None
    assert (record.test.correct, record.test.total) == (950, 1_200)
    others = answering(objects, first(10, of=10), images=range(5_000, 5_010), side=48)
    why = "keras@2 stays: it cannot answer the images of this hold-out (it was trained on images of another shape, and"
    assert promote(objects, others, Rule(), never).why.startswith(why)


def test_x5_the_groups_of_the_test_images_are_stored_and_count_once(objects: LocalObjects) -> None:
    images, groups = np.arange(200), [*np.repeat(np.arange(20), 10)]
    promote(objects, answering(objects, images >= 30, groups=groups), Rule())
    (record,) = champions(objects, dataset="digits")
    assert record.test is not None
    assert record.interval is not None
    assert record.interval[0] < record.test.interval()[0] - 0.05
    decision = promote(objects, answering(objects, images >= 0, groups=groups), Rule(), never)
    assert not decision.promote  # three objects gained, none lost
    assert decision.statistics["p"] == 1 / 8
    assert promote(objects, answering(objects, images >= 0), Rule(), never).promote


def test_a_champion_that_cannot_answer_stays_with_the_reason_and_nothing_is_spent(objects: LocalObjects) -> None:
    promote(objects, answering(objects, first(900)), Rule())
    better = answering(objects, first(950, of=1_001))

    def fails(version: Version, positions: NDArray[np.intp]) -> NDArray[np.float32]:
        raise ModelError("its code is not trusted")

    def is_damaged(version: Version, positions: NDArray[np.intp]) -> NDArray[np.float32]:
        raise IntegrityError("keras@1: model.keras: expected sha256 1, got 2")

    for predict, why in (
        (fails, "keras@1 stays: it cannot answer the images of this hold-out (its code is not trusted)"),
        (None, "keras@1 stays: it cannot answer the images of this hold-out (it was not tested on 1 image of them)"),
        (is_damaged, "the champion is damaged; roll it back first (keras@1: model.keras: expected sha256 1, got 2)"),
    ):
        decision = promote(objects, better, Rule(), predict)
        assert (decision.promote, decision.why) == (False, why)
    assert len(champions(objects, dataset="digits")) == 1


def with_training_images(objects: LocalObjects, version: Version, numbers: range, corrected: int = 0) -> Version:
    """Store the dataset of a version: training images, the first of which have another label than usual."""
    images = np.array(numbers, np.uint64)
    labels = (images % 10).astype(np.uint8)
    labels[:corrected] = (labels[:corrected] + 1) % 10
    hashes, split = np.stack([images, images], axis=1), np.zeros(len(images), np.uint8)
    state = DatasetState(hashes, labels, split, TEN)
    store_state(objects, "digits", version.facts.dataset.fingerprint, state.content())
    return version


def test_a_refusal_in_spite_of_more_data_says_which_images_speak_against_them(objects: LocalObjects) -> None:
    promote(objects, with_training_images(objects, answering(objects, first(90, 100)), range(5_000, 6_000)), Rule())
    newer = answering(objects, (np.arange(110) < 86) | (np.arange(110) >= 100))  # right on the new images alone
    predict, _ = answers(lambda positions: positions < 0)
    decision = promote(objects, with_training_images(objects, newer, range(5_000, 6_100)), Rule(), predict)
    assert not decision.promote
    assert decision.why.endswith(
        "; more data are no reason to promote it, since it gains 0 and loses 4 of the 100 images on which"
        " keras@1 was tested: check the labels of the new ones"
    )


@pytest.mark.parametrize(
    ("added", "corrected", "promoted"), [(100, 0, True), (60, 40, True), (99, 0, False), (60, 39, False)]
)
def test_a_version_with_a_tenth_more_or_corrected_training_images_is_promoted_if_it_is_not_worse(
    objects: LocalObjects, added: int, corrected: int, promoted: bool
) -> None:
    promote(objects, with_training_images(objects, answering(objects, first(90, 100)), range(5_000, 6_000)), Rule())
    newer = answering(objects, first(92, 101))  # of one more image, so the fingerprint is another
    newer = with_training_images(objects, newer, range(5_000, 6_000 + added), corrected)
    predict, _ = answers(lambda positions: positions < 0)
    decision = promote(objects, newer, Rule(), predict)
    assert decision.promote == promoted
    record = champion(objects, "keras", "digits")
    assert record is not None
    assert (record.version, record.comparisons, record.compared) == ((2, 0, 1) if promoted else (1, 1, 1))
    assert record.selected_from == (2 if promoted else 1)
    assert promoted or decision.why.endswith(
        "2 images gained, 0 lost, p = 0.25: may be chance, since p is not below 0.012; at these rates, about 250 test"
        " images would decide: label random new pictures, or add 1 training image, after which it only has to be no"
        " worse, or use jobs.models promote keras@2 --always"
    )


def test_each_data_set_has_a_champion_of_its_own(objects: LocalObjects) -> None:
    promote(objects, answering(objects, first(890)), Rule())
    promote(objects, answering(objects, first(970), dataset="mnist", images=range(5_000, 6_000)), Rule(), never)
    assert {name: champion(objects, "keras", name).version for name in ("digits", "mnist")} == {"digits": 1, "mnist": 2}  # type: ignore[union-attr]
    assert trained_last(objects, "keras")[1] == "mnist"  # type: ignore[index]
    promote(objects, answering(objects, first(890)), Rule())
    assert trained_last(objects, "keras")[1] == "digits"  # type: ignore[index]  # trained last, although the champion stayed


def test_under_another_name_a_dataset_has_a_first_champion_and_a_budget_of_its_own(objects: LocalObjects) -> None:
    promote(objects, answering(objects, first(900)), Rule())
    promote(objects, answering(objects, first(901)), Rule())
    assert promote(objects, answering(objects, first(800), dataset="renamed"), Rule(), never).promote
    refused = promote(objects, answering(objects, first(801), dataset="renamed"), Rule(), never)
    assert refused.budget is not None
    assert (refused.promote, refused.budget.comparisons) == (False, 1)
    assert [record.comparisons for record in champions(objects, dataset="digits")] == [0, 1]


def test_the_same_comparison_is_recorded_once(objects: LocalObjects) -> None:
    promote(objects, answering(objects, first(900)), Rule())
    same = answering(objects, first(901))
    decision = promote(objects, same, Rule())
    assert promote(objects, same, Rule()) == decision
    assert len(champions(objects, dataset="digits")) == 2
