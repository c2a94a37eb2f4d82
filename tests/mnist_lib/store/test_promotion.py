"""The test that decides between two versions."""

from pathlib import Path

import numpy as np
import pytest

from mnist_lib.errors import IntegrityError
from mnist_lib.store.contents import Predictions
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.promotion import Rule, mcnemar
from mnist_lib.store.publishing import publish
from tests.support.store.versions_of import about, files


def predictions(
    name: str, right: int, *, fingerprint: str = "f", finite: bool = True, images: int = 200, test_images: int = 200
) -> Predictions:
    answers = (np.arange(images) >= right).astype(np.uint8)  # 0 is right
    probabilities = np.eye(10, dtype=np.float32)[answers]
    if not finite:
        probabilities[0, 0] = np.nan
    return Predictions(name, fingerprint, test_images, probabilities, np.zeros(images, np.uint8))


@pytest.mark.parametrize(
    ("gained", "lost", "p"),  # R: binom.test(gained, gained + lost)$p.value
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (5, 5, 1.0), (15, 5, 0.04138947), (9, 21, 0.04277395)],
)
def test_p_is_that_of_the_exact_binomial_test(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p, rel=1e-6)
    assert mcnemar(lost, gained) == pytest.approx(p, rel=1e-6)


def test_p_of_many_images_is_a_number() -> None:
    assert 0 <= mcnemar(4_000, 6_000) < 1e-80
    assert mcnemar(5_000, 5_000) == 1.0


@pytest.mark.parametrize(
    ("challenger", "promoted"), [(180, False), (185, False), (186, True), (200, True), (170, False)]
)
def test_only_the_better_one_is_promoted_and_only_if_chance_is_unlikely(challenger: int, promoted: bool) -> None:
    decision = Rule().decide(predictions("keras@2", challenger), predictions("keras@1", 180))
    assert decision.promote is promoted
    assert "keras@2 has" in decision.why
    assert decision.statistics["gained"] - decision.statistics["lost"] == challenger - 180


def test_without_a_champion_the_accuracy_has_to_be_enough() -> None:
    assert Rule().decide(predictions("keras@1", 180), None).promote
    assert Rule(min_accuracy=0.9).decide(predictions("keras@1", 180), None).promote
    decision = Rule(min_accuracy=0.9).decide(predictions("keras@1", 179), None)
    assert not decision.promote
    assert decision.why == "keras@1 has 89.50%: the first champion needs 90.00%"


def of_classes(name: str, right: dict[int, int], images: int = 100) -> Predictions:
    """With so many right answers of the images of each class."""
    labels = np.repeat(np.array(list(right), np.uint8), images)
    answers = np.concatenate(
        [np.where(np.arange(images) < count, label, (label + 1) % 10) for label, count in right.items()]
    )
    return Predictions(name, "f", len(labels), np.eye(10, dtype=np.float32)[answers], labels)


def test_a_better_model_that_has_lost_a_digit_is_not_promoted() -> None:
    champion = of_classes("keras@1", dict.fromkeys(range(10), 80))
    better = of_classes("keras@2", {**dict.fromkeys(range(9), 100), 9: 0})
    decision = Rule().decide(better, champion)
    assert not decision.promote
    assert decision.why.endswith("class 9 falls from 80.00% to 0.00%, p = 1.7e-24")
    assert decision.statistics["collapse"]["class"] == 9
    assert Rule(max_class_drop=0.8).decide(better, champion).promote


def test_a_class_may_fall_a_little_or_by_chance() -> None:
    champion = of_classes("keras@1", dict.fromkeys(range(10), 80))
    little = of_classes("keras@2", {**dict.fromkeys(range(9), 100), 9: 75})  # 5 points
    assert Rule().decide(little, champion).promote
    few = of_classes("keras@1", dict.fromkeys(range(10), 16), images=20)
    by_chance = of_classes("keras@2", {**dict.fromkeys(range(9), 20), 9: 10}, images=20)  # 30 points, p = 0.03
    assert Rule().decide(by_chance, few).promote


@pytest.mark.parametrize(
    "challenger",
    [predictions("keras@2", 200, fingerprint="other"), predictions("keras@2", 100, images=100, test_images=100)],
)
def test_what_was_tested_on_other_images_is_not_compared(challenger: Predictions) -> None:
    decision = Rule().decide(challenger, predictions("keras@1", 100))
    assert not decision.promote
    assert "different images" in decision.why


@pytest.mark.parametrize("champion", [None, predictions("keras@1", 100)])
@pytest.mark.parametrize("when", ["if-better", "always"])
def test_probabilities_that_are_no_numbers_never_win(champion: Predictions | None, when: str) -> None:
    assert (
        not Rule(when=when, alpha=0.05, min_accuracy=0.0)
        .decide(predictions("keras@2", 200, finite=False), champion)
        .promote
    )


@pytest.mark.parametrize("champion", [None, predictions("keras@1", 100)])
@pytest.mark.parametrize("when", ["if-better", "always"])
def test_what_was_tested_on_fewer_than_all_images_never_wins(champion: Predictions | None, when: str) -> None:
    decision = Rule(when=when, alpha=0.05, min_accuracy=0.0).decide(predictions("keras@2", 199, images=199), champion)
    assert not decision.promote
    assert decision.why == "keras@2 was tested on 199 of 200 images"


def test_a_rule_is_to_promote_what_is_better_or_whatever_comes() -> None:
    worse, better = predictions("keras@2", 100), predictions("keras@1", 110)
    assert Rule(when="always", alpha=0.05, min_accuracy=0.0).decide(worse, better).promote
    assert not Rule(when="if-better", alpha=0.05, min_accuracy=0.0).decide(worse, better).promote
    assert not Rule(when="if-better", alpha=0.001, min_accuracy=0.0).decide(better, worse).promote  # p is 0.002
    assert not Rule(when="if-better", alpha=0.05, min_accuracy=0.9).decide(better, None).promote


def test_predictions_are_read_from_a_version(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    for run, finite in (("a", True), ("b", False)):
        version = publish(objects, "keras", run, files(150, finite=finite), about("print"))
        read = Predictions.of(objects, version)
        assert (read.fingerprint, read.disqualification is None, len(read.correct)) == ("print", finite, 200)
    version = publish(objects, "keras", "c", files(150), about())
    assert Predictions.of(objects, version).accuracy == 0.75
    version = publish(objects, "keras", "d", {**files(150), "predictions.npz": b"PK\3\4"}, about())
    with pytest.raises(IntegrityError, match=r"keras@4: predictions.npz"):
        Predictions.of(objects, version)
