"""The promotion rule and its statistical test."""

import numpy as np
import pytest

from mnist_lib.store.contents import Predictions
from mnist_lib.store.promotion import Rule, mcnemar


def predictions(
    name: str, right: int, *, fingerprint: str = "f", finite: bool = True, images: int = 200, test_images: int = 200
) -> Predictions:
    """Return predictions of which the first `right` are correct; every label is 0."""
    answers = (np.arange(images) >= right).astype(np.uint8)
    probabilities = np.eye(10, dtype=np.float32)[answers]
    if not finite:
        probabilities[0, 0] = np.nan
    return Predictions(name, fingerprint, test_images, probabilities, np.zeros(images, np.uint8))


def by_class(name: str, right: dict[int, int], images: int = 100) -> Predictions:
    """Return `images` predictions for each class in `right`, which maps a class to its number of correct ones."""
    labels = np.repeat(np.array(list(right), np.uint8), images)
    answers = np.concatenate(
        [np.where(np.arange(images) < count, label, (label + 1) % 10) for label, count in right.items()]
    )
    return Predictions(name, "f", len(labels), np.eye(10, dtype=np.float32)[answers], labels)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),  # R: binom.test(gained, gained + lost)$p.value
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (5, 5, 1.0), (15, 5, 0.04138947), (9, 21, 0.04277395)],
)
def test_p_equals_that_of_the_exact_binomial_test(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p, rel=1e-6)
    assert mcnemar(lost, gained) == pytest.approx(p, rel=1e-6)


def test_p_does_not_overflow_for_ten_thousand_images() -> None:
    assert 0 <= mcnemar(4_000, 6_000) < 1e-80
    assert mcnemar(5_000, 5_000) == 1.0


@pytest.mark.parametrize(
    ("challenger", "promoted"), [(180, False), (185, False), (186, True), (200, True), (170, False)]
)
def test_p5_a_challenger_is_promoted_only_if_it_is_significantly_better(challenger: int, promoted: bool) -> None:
    decision = Rule().decide(predictions("keras@2", challenger), predictions("keras@1", 180))
    assert decision.promote is promoted
    assert "keras@2 has" in decision.why
    assert decision.statistics["gained"] - decision.statistics["lost"] == challenger - 180


def test_the_first_champion_needs_the_minimum_accuracy() -> None:
    assert Rule().decide(predictions("keras@1", 180), None).promote
    assert Rule(min_accuracy=0.9).decide(predictions("keras@1", 180), None).promote
    decision = Rule(min_accuracy=0.9).decide(predictions("keras@1", 179), None)
    assert not decision.promote
    assert decision.why == "keras@1 has 89.50%: the first champion needs 90.00%"


def test_a_better_challenger_that_is_much_worse_in_one_class_is_not_promoted() -> None:
    champion = by_class("keras@1", dict.fromkeys(range(10), 80))
    better = by_class("keras@2", {**dict.fromkeys(range(9), 100), 9: 0})
    decision = Rule().decide(better, champion)
    assert not decision.promote
    assert decision.why.endswith("class 9 drops from 80.00% to 0.00%, p = 1.7e-24")
    assert decision.statistics["collapse"]["class"] == 9
    assert Rule(max_class_drop=0.8).decide(better, champion).promote


def test_a_small_or_insignificant_drop_of_one_class_does_not_prevent_promotion() -> None:
    champion = by_class("keras@1", dict.fromkeys(range(10), 80))
    small = by_class("keras@2", {**dict.fromkeys(range(9), 100), 9: 75})  # 5 points
    assert Rule().decide(small, champion).promote
    few = by_class("keras@1", dict.fromkeys(range(10), 16), images=20)
    by_chance = by_class("keras@2", {**dict.fromkeys(range(9), 20), 9: 10}, images=20)  # 30 points, p = 0.03
    assert Rule().decide(by_chance, few).promote


@pytest.mark.parametrize(
    "challenger",
    [predictions("keras@2", 200, fingerprint="other"), predictions("keras@2", 100, images=100, test_images=100)],
)
def test_a_challenger_tested_on_different_images_is_not_promoted(challenger: Predictions) -> None:
    decision = Rule().decide(challenger, predictions("keras@1", 100))
    assert not decision.promote
    assert "different images" in decision.why


@pytest.mark.parametrize("champion", [None, predictions("keras@1", 100)])
@pytest.mark.parametrize("when", ["if-better", "always"])
def test_p5_a_challenger_with_nan_probabilities_is_never_promoted(champion: Predictions | None, when: str) -> None:
    assert not Rule(when=when).decide(predictions("keras@2", 200, finite=False), champion).promote


@pytest.mark.parametrize("champion", [None, predictions("keras@1", 100)])
@pytest.mark.parametrize("when", ["if-better", "always"])
def test_a_challenger_not_tested_on_all_images_is_never_promoted(champion: Predictions | None, when: str) -> None:
    decision = Rule(when=when).decide(predictions("keras@2", 199, images=199), champion)
    assert not decision.promote
    assert decision.why == "keras@2 was tested on 199 of 200 images"


def test_a_worse_uncertain_or_inaccurate_version_is_not_promoted() -> None:
    worse, better = predictions("keras@2", 100), predictions("keras@1", 110)
    assert Rule(when="always").decide(worse, better).promote
    assert not Rule(when="if-better").decide(worse, better).promote
    assert not Rule(when="if-better", alpha=0.001).decide(better, worse).promote  # p is 0.002
    assert not Rule(when="if-better", min_accuracy=0.9).decide(better, None).promote
