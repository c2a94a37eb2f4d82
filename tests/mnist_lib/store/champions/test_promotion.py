"""The promotion rule and its statistical test."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_lib.store.champions.comparison import Compared, mcnemar
from mnist_lib.store.champions.promotion import Decision, Rule
from mnist_lib.store.predictions import Predictions
from tests.support.store.answering import TEN

HASHES = np.arange(4_000, dtype=np.uint64).reshape(-1, 2)


def predictions(
    name: str, right: int, *, finite: bool = True, images: int = 200, test_images: int = 200
) -> Predictions:
    """Return predictions of which the first `right` are correct; the ten classes are equally frequent."""
    labels = (np.arange(images) % 10).astype(np.uint8)
    answers = np.where(np.arange(images) < right, labels, (labels + 1) % 10)
    probabilities = np.eye(10, dtype=np.float32)[answers]
    if not finite:
        probabilities[0, 0] = np.nan
    return Predictions(name, test_images, probabilities, labels, TEN, HASHES[:images])


def by_class(name: str, right: dict[int, int], images: int = 100) -> Predictions:
    """Return `images` predictions for each class in `right`, which maps a class to its number of correct ones."""
    labels = np.repeat(np.array(list(right), np.uint8), images)
    answers = np.concatenate(
        [np.where(np.arange(images) < count, label, (label + 1) % 10) for label, count in right.items()]
    )
    return Predictions(name, len(labels), np.eye(10, dtype=np.float32)[answers], labels, TEN, HASHES[: len(labels)])


def answering(name: str, answers: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Predictions:
    return Predictions(name, len(labels), np.eye(10, dtype=np.float32)[answers], labels, TEN, HASHES[: len(labels)])


def right_about(version: Predictions, other: Predictions) -> NDArray[np.bool_]:
    """Return whether a version is right about the test images of another one, on all of which it was tested."""
    return version.correct_among(version.for_images_of(other, np.empty(0, np.intp), None), version.classes, other)


def decide(
    challenger: Predictions, champion: Predictions | None, rule: Rule | None = None, alpha: float = 0.0005
) -> Decision:
    """Decide as a promotion does, by default at the level of the first comparison."""
    rule = rule or Rule()
    alone = rule.decide_alone(challenger)
    if alone is not None:
        return alone
    if champion is None:
        return rule.decide_first(challenger)
    right = right_about(champion, challenger)
    names, answers = (challenger.name, champion.name), (challenger.correct, right)
    return rule.decide(Compared(*names, *answers, challenger.labels, challenger.classes), alpha)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),  # R: binom.test(gained, gained + lost, alternative = "greater")$p.value
    [
        *((0, 0, 1.0), (1, 0, 0.5), (0, 1, 1.0), (5, 0, 0.03125), (5, 5, 0.6230469)),
        *((15, 5, 0.02069473), (9, 21, 0.9919376), (21, 9, 0.02138697)),
    ],
)
def test_p_equals_that_of_the_exact_binomial_test(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p, rel=1e-6)


def test_p_does_not_overflow_for_ten_thousand_images() -> None:
    assert 0 <= mcnemar(6_000, 4_000) < 1e-80
    assert mcnemar(4_000, 6_000) == 1.0
    assert mcnemar(5_000, 5_000) == pytest.approx(0.504, abs=0.001)


def test_p_of_very_many_images_is_found_at_once_and_close_to_the_exact_one() -> None:
    assert mcnemar(10**12, 10**12) == pytest.approx(0.5, abs=1e-3)
    assert mcnemar(10**12, 10**11) == 0
    assert mcnemar(50_400, 49_601) == pytest.approx(mcnemar(50_400, 49_600), rel=0.02)  # n is 100,001 and 100,000


def test_p_of_balanced_accuracies_is_at_least_that_of_all_combinations_of_signs() -> None:
    random = np.random.default_rng(0)
    signs = np.array([*itertools.product((-1, 1), repeat=12)])
    seen = []
    for _ in range(200):
        labels = np.repeat(np.arange(3, dtype=np.uint8), random.integers(4, 200, 3))
        differing = random.permutation(len(labels))[:12]
        challenger, champion = np.zeros((2, len(labels)), bool)
        challenger[differing] = random.random(12) < random.uniform(0.5, 1)
        champion[differing] = ~challenger[differing]
        both = Compared("keras@2", "keras@1", challenger, champion, labels, TEN, balanced=True)
        sizes = 1 / np.maximum(10, np.bincount(labels))[labels[differing]]
        exact = np.mean(signs @ sizes >= both.advantage - 1e-8)
        seen.append((exact, both.p))
    assert all(exact <= p * 1.001 for exact, p in seen if exact < 0.25)
    assert sum(p < 0.05 for _, p in seen) >= 0.6 * sum(exact < 0.05 for exact, _ in seen) > 20
    none = np.zeros(5, bool)
    assert Compared("keras@2", "keras@1", none, none, np.zeros(5, np.uint8), TEN, balanced=True).p == 1.0


def test_many_tiny_gains_do_not_outweigh_a_large_loss() -> None:
    labels = np.append(np.zeros(20_000, np.uint8), np.ones(10, np.uint8))
    challenger, champion = np.ones(20_010, bool), np.ones(20_010, bool)
    champion[:1_900], challenger[20_000] = False, False  # 9.5% of one class gained, 10% of the other lost
    both = Compared("keras@2", "keras@1", challenger, champion, labels, ("ok", "bad"), balanced=True)
    assert both.advantage < 0
    assert both.p > 0.5
    assert not Rule().decide(both, alpha=0.05).promote


def test_x5_a_group_of_any_size_is_one_vote() -> None:
    """Ten pictures of each of four objects gained, and of one lost: p is that of 4 to 1, not of 40 to 10."""
    right = np.repeat([True, True, True, True, False], 10)
    groups = np.repeat(np.arange(5, dtype=np.int32), 10)
    names, labels = ("keras@2", "keras@1"), np.zeros(50, np.uint8)
    assert Compared(*names, right, ~right, labels, TEN).p == mcnemar(40, 10)
    both = Compared(*names, right, ~right, labels, TEN, groups=groups)
    assert (both.p, both.test) == (mcnemar(4, 1), "exact McNemar, one-sided")
    large = np.append(np.zeros(46, np.int32), np.arange(1, 5, dtype=np.int32))  # one object gained, four lost
    won = large == 0
    assert Compared(*names, won, ~won, labels, TEN, groups=large).p == mcnemar(1, 4)
    worse = Compared(*names, ~right, right, labels, TEN, groups=groups)
    assert Rule().collapse(Compared(*names, ~right, right, labels, TEN)) is not None
    assert Rule().collapse(worse) is None
    alone = Compared(*names, right, ~right, labels, TEN, groups=np.full(50, -1, np.int32))
    assert (alone.p, alone.test) == (mcnemar(40, 10), "exact McNemar, one-sided")


def test_a_first_champion_that_guesses_whole_objects_is_not_clearly_better_than_a_guess() -> None:
    labels = np.repeat(np.arange(10, dtype=np.uint8), 20)
    answers = np.where(np.arange(200) // 10 % 5 == 0, labels, (labels + 1) % 10).astype(np.uint8)  # 4 of 20 objects
    plain = answering("keras@1", answers, labels)
    assert Rule().decide_first(plain).promote
    assert not Rule().decide_first(replace(plain, groups=np.repeat(np.arange(20, dtype=np.int32), 10))).promote


@pytest.mark.parametrize("is_known", [False, True])
def test_one_test_image_of_a_mistyped_class_does_not_hide_that_the_challenger_is_better(is_known: bool) -> None:
    """38 images gained and 5 lost of 420 in ten classes, and one of another class that only the champion may know."""
    numbers, labels = np.arange(421), np.append(np.arange(420) % 10, 10).astype(np.uint8)
    challenger, champion = numbers >= 5, (numbers < 5) | (numbers >= 43)
    challenger[420], champion[420] = False, is_known
    both = Compared("keras@2", "keras@1", challenger, champion, labels, (*TEN, "tpyo"), balanced=True)
    assert (both.total.gained, both.total.lost) == (38, 5 + is_known)
    decision = Rule().decide(both, alpha=0.001)
    assert decision.promote, decision.why


@pytest.mark.parametrize(
    ("challenger", "promoted"), [(180, False), (185, False), (190, False), (191, True), (200, True), (170, False)]
)
def test_p5_a_challenger_is_promoted_only_if_it_is_significantly_better(challenger: int, promoted: bool) -> None:
    decision = decide(predictions("keras@2", challenger), predictions("keras@1", 180))
    assert decision.promote is promoted
    assert "keras@2 has" in decision.why
    assert decision.statistics["gained"] - decision.statistics["lost"] == challenger - 180


def compared(right: dict[int, int], champion: dict[int, int]) -> Compared:
    """Return the comparison of two versions, given by their right answers in each class, of 100 images each."""
    challenger, other = by_class("keras@2", right), by_class("keras@1", champion)
    right_before = right_about(other, challenger)
    answers = challenger.correct, right_before
    return Compared(challenger.name, other.name, *answers, challenger.labels, challenger.classes)


@pytest.mark.parametrize(
    ("right", "champion", "new", "rule", "promoted"),
    [
        ({0: 90, 1: 90}, {0: 90, 1: 90}, 20, Rule(), True),
        ({0: 90, 1: 90}, {0: 90, 1: 90}, 19, Rule(), False),  # 9.5% of 200
        ({0: 89, 1: 90}, {0: 90, 1: 90}, 200, Rule(), False),
        ({0: 90, 1: 90}, {0: 90, 1: 90}, 200, Rule(promote="if-significant"), False),
        ({0: 100, 1: 60}, {0: 60, 1: 95}, 200, Rule(), False),  # class 1 collapses
        ({0: 100, 1: 60}, {0: 60, 1: 95}, 200, Rule(max_class_drop=0.4), True),
    ],
)
def test_more_data_promote_a_challenger_that_is_not_worse(
    right: dict[int, int], champion: dict[int, int], new: int, rule: Rule, promoted: bool
) -> None:
    both = compared(right, champion)
    decision = rule.decide_by_data(both, new, before=200)
    assert (decision is not None and decision.promote) == promoted


@pytest.mark.parametrize(("lost", "promoted"), [(2, True), (3, False)])
def test_a_challenger_that_has_learned_new_wrong_labels_is_not_promoted(lost: int, promoted: bool) -> None:
    challenger, champion = np.ones(150, bool), np.ones(150, bool)
    challenger[:lost] = False  # of the images on which the champion was tested
    champion[100:] = False  # about the new ones
    labels, names = np.zeros(150, np.uint8), ("keras@2", "keras@1")
    both = Compared(*names, challenger, champion, labels, TEN, tested=np.arange(150) < 100)
    decisions = Rule().decide_by_data(both, new=42, before=350), Rule().decide(both, alpha=0.01)
    assert [decision is not None and decision.promote for decision in decisions] == [promoted] * 2
    doubt = "it gains 0 and loses 3 of the 100 images on which keras@1 was tested: check the labels of the new ones"
    assert promoted or all(decision is not None and decision.why.endswith(doubt) for decision in decisions)


def test_a_promotion_by_more_data_names_the_images_and_the_data() -> None:
    both = compared({0: 92, 1: 90}, {0: 90, 1: 90})
    decision = Rule().decide_by_data(both, new=42, before=350)
    assert decision is not None
    assert decision.why == (
        "keras@2 has 91.00%, keras@1 90.00%; 2 images gained, 0 lost: not worse, with 42 new or corrected training"
        " images, 12.00% of those of the champion"
    )
    assert decision.statistics == {
        **{"test": "more data", "images": 200, "gained": 2, "lost": 0, "new_train": 42, "champion_train": 350},
    }


def test_the_first_champion_needs_the_minimum_accuracy() -> None:
    assert decide(predictions("keras@1", 180), None).promote
    assert decide(predictions("keras@1", 180), None, Rule(min_accuracy=0.9)).promote
    decision = decide(predictions("keras@1", 179), None, Rule(min_accuracy=0.9))
    assert not decision.promote
    assert decision.why == "keras@1 has 89.50%: the first champion needs 90.00%"


def test_a_better_challenger_that_is_much_worse_in_one_class_is_not_promoted() -> None:
    champion = by_class("keras@1", dict.fromkeys(range(10), 80))
    better = by_class("keras@2", {**dict.fromkeys(range(9), 100), 9: 0})
    decision = decide(better, champion)
    assert not decision.promote
    assert decision.why.endswith("class 9 drops from 80.00% to 0.00%, p = 8.3e-25")
    assert decision.statistics["collapse"]["class"] == "9"
    assert decide(better, champion, Rule(max_class_drop=0.8)).promote


def test_a_small_or_insignificant_drop_of_one_class_does_not_prevent_promotion() -> None:
    champion = by_class("keras@1", dict.fromkeys(range(10), 80))
    small = by_class("keras@2", {**dict.fromkeys(range(9), 100), 9: 75})  # 5 points
    assert decide(small, champion).promote
    few = by_class("keras@1", dict.fromkeys(range(10), 16), images=20)
    by_chance = by_class("keras@2", {**dict.fromkeys(range(9), 20), 9: 10}, images=20)  # 30 points, p = 0.03
    assert decide(by_chance, few).promote


def test_a_first_champion_must_be_clearly_better_than_the_most_frequent_class() -> None:
    even = {**dict.fromkeys(range(10), 10)}
    assert not decide(by_class("keras@1", even), None).promote  # 10% of ten equally frequent classes
    assert not decide(by_class("keras@1", dict.fromkeys(range(10), 11)), None).promote  # may be chance
    assert decide(by_class("keras@1", dict.fromkeys(range(10), 13)), None).promote
    answers, labels = (np.arange(200) == 199).astype(np.uint8), (np.arange(200) >= 180).astype(np.uint8)
    labels[0] = 1  # answers that name two classes and are right for as many images as the most frequent class has
    decision = decide(answering("keras@1", answers, labels), None)
    assert not decision.promote
    assert decision.why == (
        "keras@1 has 90.00% (85.06% to 93.43%): not clearly better than always answering the most frequent class,"
        " which has 89.50%"
    )


def skewed(name: str, common: int, rare: int) -> Predictions:
    """Return predictions for 190 images of class 0 and 10 of class 1, of which so many are right."""
    labels = np.repeat(np.array([0, 1], np.uint8), [190, 10])
    numbers = np.concatenate([np.arange(190), np.arange(10)])
    right = numbers < np.where(labels == 0, common, rare)
    return answering(name, np.where(right, labels, 1 - labels).astype(np.uint8), labels)


def test_by_balanced_accuracy_a_first_champion_that_knows_the_small_class_is_good_enough() -> None:
    knows_both, knows_one = skewed("keras@1", 171, 9), skewed("keras@1", 189, 1)
    assert not Rule().decide_first(knows_both).promote  # 90%, and always answering 0 is correct for 95%
    decision = Rule().decide_first(knows_both, balanced=True)
    assert (decision.promote, decision.why) == (
        *(True, "keras@1 is the first champion, with a balanced accuracy of 90.00%"),
    )
    decision = Rule().decide_first(knows_one, balanced=True)
    assert not decision.promote
    assert decision.why.startswith("keras@1 has a balanced accuracy of 54.74% (")
    assert decision.why.endswith("always answering the most frequent class, which has a balanced accuracy of 50.00%")


def test_by_balanced_accuracy_gains_in_the_small_class_outweigh_losses_in_the_large_one() -> None:
    champion, challenger = skewed("keras@1", 190, 0), skewed("keras@2", 180, 10)
    for balanced, promoted in ((False, False), (True, True)):
        names, right = ("keras@2", "keras@1"), (challenger.correct, champion.correct)
        both = Compared(*names, *right, champion.labels, champion.classes, balanced)
        assert (both.advantage > 0) == promoted
        decision = Rule().decide(both, alpha=0.05)
        assert decision.promote == promoted
        by_data = Rule().decide_by_data(both, new=20, before=200)
        assert (by_data is not None and by_data.promote) == (not balanced or promoted)
    assert decision.why.startswith(
        "keras@2 has a balanced accuracy of 97.37%, keras@1 50.00%; 10 images gained, 10 lost, p = 0.0"
    )


def test_losses_that_are_worth_as_much_as_the_gains_are_no_disadvantage() -> None:
    right = np.arange(70) < 49
    labels = (~right).astype(np.uint8)  # 49 images of a class, all gained, and 21 of another, all lost
    assert Compared("keras@2", "keras@1", right, ~right, labels, TEN, balanced=True).advantage == 0


def test_a_tiny_alpha_and_a_huge_loss_are_refused_as_any_others() -> None:
    both = compared({0: 92, 1: 90}, {0: 90, 1: 90})
    assert "test images would decide" in Rule().decide(both, alpha=1e-17).why
    names, images = ("keras@2", "keras@1"), 300_000
    right = np.zeros(images, bool), np.ones(images, bool)
    assert Compared(*names, *right, np.zeros(images, np.uint8), TEN, balanced=True).p == 1.0


@pytest.mark.parametrize("champion", [None, by_class("keras@1", {0: 0, 1: 0, 2: 0})])
def test_a_model_that_always_gives_one_answer_is_promoted_only_on_request(champion: Predictions | None) -> None:
    constant = answering("keras@2", np.zeros(300, np.uint8), np.repeat(np.arange(3, dtype=np.uint8), 100))
    decision = decide(constant, champion)
    assert (decision.promote, decision.why) == (False, "keras@2 always answers 0, which is correct for 33.33%")
    assert decide(constant, champion, Rule(promote="always")).promote
    of_one_class = by_class("keras@1", {4: 100})
    assert of_one_class.always_answers is None  # it is right, and nothing else could be


@pytest.mark.parametrize("champion", [None, predictions("keras@1", 100)])
@pytest.mark.parametrize("when", ["if-better", "always"])
def test_p5_a_challenger_with_nan_probabilities_is_never_promoted(champion: Predictions | None, when: str) -> None:
    assert not decide(predictions("keras@2", 200, finite=False), champion, Rule(promote=when)).promote


@pytest.mark.parametrize("champion", [None, predictions("keras@1", 100)])
@pytest.mark.parametrize("when", ["if-better", "always"])
def test_a_challenger_not_tested_on_all_images_is_never_promoted(champion: Predictions | None, when: str) -> None:
    decision = decide(predictions("keras@2", 199, images=199), champion, Rule(promote=when))
    assert not decision.promote
    assert decision.why == "keras@2 was tested on 199 of 200 images"


def test_a_worse_uncertain_or_inaccurate_version_is_not_promoted() -> None:
    worse, better = predictions("keras@2", 100), predictions("keras@1", 110)
    assert decide(worse, better, Rule(promote="always")).promote
    assert not decide(worse, better, Rule(promote="if-better")).promote
    assert not decide(better, worse).promote  # p is 0.001
    assert decide(better, worse, alpha=0.001).promote
    assert not decide(better, None, Rule(promote="if-better", min_accuracy=0.9)).promote
