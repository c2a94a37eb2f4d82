"""A shadow is compared with the champion on new pictures, until the evidence suffices or another takes its place."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_lib.api import require_version
from mnist_lib.data.changes import DatasetState
from mnist_lib.data.split import NO_GROUP, Dataset, Split
from mnist_lib.errors import ModelError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.store.champions.appointment import champion as newest
from mnist_lib.store.champions.appointment import rollback
from mnist_lib.store.champions.challenge import Night, promote
from mnist_lib.store.champions.evidence import AnswerCounts, balanced_weights, evidence
from mnist_lib.store.champions.log import ChampionLog
from mnist_lib.store.champions.promotion import Decision, Rule
from mnist_lib.store.champions.shadow import Shadow
from mnist_lib.store.datasets import store_state
from mnist_lib.store.publishing import collect
from mnist_lib.store.versions import Version, condemn, read_hold_state
from tests.support.store.answering import answering
from tests.support.store.faulty import KilledError
from tests.support.store.invariants import champions
from tests.support.store.sealed import reseal

RULE = Rule(promote="if-significant")


def counts(gained: int, lost: int) -> dict[str, AnswerCounts]:
    return {"0": AnswerCounts(gained + lost, lost, gained, lost)}


def shadow(number: int = 1, **fields: object) -> Shadow:
    return Shadow(version=2, commit_sha256="0" * 64, number=number, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (9, 0), (20, 5), (3, 7), (300, 250)])
def test_with_equal_weights_the_evidence_has_the_closed_form(gained: int, lost: int) -> None:
    n = gained + lost + 1
    log_beta = math.lgamma(gained + 1) + math.lgamma(lost + 1) - math.lgamma(n + 1)
    tail = sum(math.comb(n, k) for k in range(gained + 1)) / 2**n
    expected = math.exp(n * math.log(2) + log_beta) * tail
    assert evidence(counts(gained, lost), {}) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_if_the_next_image_is_as_likely_lost_as_gained_the_evidence_stays_the_same_on_average(weight: float) -> None:
    for gained, lost in ((0, 0), (4, 1), (2, 9)):
        now, won, less = (
            evidence(counts(gained + more, lost + fewer), {"0": weight}) for more, fewer in ((0, 0), (1, 0), (0, 1))
        )
        assert (won + less) / 2 == pytest.approx(now)


def test_an_image_of_a_small_class_is_worth_as_much_as_its_class_is_rare() -> None:
    weights = balanced_weights({"common": 950, "rare": 50, "none": 0})
    assert weights == {"common": pytest.approx(50 / 950), "rare": 1.0}
    gained = AnswerCounts(19, 0, 19, 0)
    assert evidence({"rare": AnswerCounts(1, 0, 1, 0)}, weights) == pytest.approx(1.5)
    lost_and_gained = {"common": gained, "rare": AnswerCounts(1, 1, 0, 1)}
    assert 0.5 < evidence(lost_and_gained, weights) < 1  # as much lost as gained


def test_all_shadows_together_risk_no_more_than_their_share_of_alpha() -> None:
    risk = sum(1 / shadow(number).needed(RULE.shadows_alpha) for number in range(1, 10_000))
    assert 0.99 * RULE.shadows_alpha < risk <= RULE.shadows_alpha
    assert RULE.shadows_alpha + RULE.comparisons_alpha == pytest.approx(RULE.alpha)


def test_evidence_that_suffices_does_not_promote_if_a_class_collapses() -> None:
    rare = {"rare": AnswerCounts(60, 60, 0, 30)}
    better = {"common": AnswerCounts(900, 700, 150, 0)}
    assert shadow(classes=better, nights=9).decide(RULE, "keras", "keras@1") is not None
    assert shadow(classes={**better, **rare}, nights=9).evidence > shadow().needed(RULE.shadows_alpha)
    assert shadow(classes={**better, **rare}, nights=9).decide(RULE, "keras", "keras@1") is None
    assert "that it needs; class rare drops from 100.00% to 50.00%, p = " in shadow(
        classes={**better, **rare}, nights=9
    ).text(RULE, "keras")


def test_the_advice_names_the_nights_that_are_missing_at_this_rate() -> None:
    text = shadow(classes=counts(4, 0), nights=4).text(RULE, "keras")
    assert text == (
        "meanwhile, keras@2 gained 4 and lost 0 of 4 new pictures (evidence 6.2 of the 80 that it needs; at this rate,"
        " 5 more nights would do)"
    )
    assert shadow(classes=counts(9, 0), nights=9).evidence > 80 > shadow(classes=counts(8, 0), nights=8).evidence
    assert (
        shadow(classes=counts(1, 1), nights=4).text(RULE, "keras").endswith("(evidence 0.667 of the 80 that it needs)")
    )
    assert shadow(nights=4).text(RULE, "keras") == ""
    assert shadow(classes=counts(4, 0), nights=4).text(Rule(alpha=0.0), "keras") == ""  # no evidence would suffice


# Nights of a folder: pictures are numbers, which are their labels modulo 10.


class Folder:
    """A folder that grows, and the models that are trained on it: each is right about pictures below a number."""

    def __init__(self, objects: LocalObjects) -> None:
        self.objects = objects
        self.train, self.test = [*range(1_000, 1_400)], [*range(100)]
        self.groups: Mapping[int, int] = {}
        self.chosen: set[int] = set()
        self.is_right: dict[int, Callable[[int], bool]] = {}
        self.asked: list[tuple[int, list[int]]] = []  # the versions and pictures that were predicted
        self.fails: set[int] = set()
        self.init_from: str | None = None  # what the next versions start from

    def publish(self, is_right: Callable[[int], bool]) -> Version:
        """Publish a version that is right about some pictures, and store the dataset it was trained on."""
        version = answering(
            self.objects, [is_right(number) for number in self.test], images=self.test, init_from=self.init_from
        )
        self.is_right[version.number] = is_right
        dataset = self.dataset()
        content = DatasetState.of(dataset).content()
        store_state(self.objects, "digits", version.facts.dataset.fingerprint, content)
        return version

    def dataset(self) -> Dataset:
        train, test = (self._split(numbers) for numbers in (self.train, self.test))
        dataset = Dataset.of("digits", "1", train, test)
        numbers = [*self.train, *self.test]
        return replace(
            dataset,
            groups=np.array([self.groups.get(number, NO_GROUP) for number in numbers], np.int32),
            chosen=np.array([number in self.chosen for number in numbers]) if self.chosen else None,
        )

    def _split(self, numbers: list[int]) -> Split:
        array = np.array(numbers, np.uint64)
        images = np.zeros((len(numbers), 1, 1, 1), np.uint8)
        return Split(images, (array % 10).astype(np.uint8), np.stack([array, array + np.uint64(1)], axis=1))

    def predict(self, numbers: list[int], version: Version, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        if version.number in self.fails:
            raise ModelError("its code is not trusted")
        of_rows = [numbers[row] for row in rows]
        self.asked.append((version.number, of_rows))
        answers = [number + (not self.is_right[version.number](number)) for number in of_rows]
        return np.eye(10, dtype=np.float32)[np.array(answers, np.intp) % 10]

    def promote(self, version: Version) -> Decision:
        """Decide as a run does that has just trained a version."""
        numbers = [*self.train, *self.test]
        night = Night(self.dataset(), lambda version, rows: self.predict(numbers, version, rows))
        return promote(self.objects, version, RULE, lambda v, rows: self.predict(self.test, v, rows), night)

    def night(self, is_right: Callable[[int], bool], train: range = range(0), test: range = range(0)) -> Decision:
        """Add pictures, train a model and decide."""
        self.train += train
        self.test += test
        return self.promote(self.publish(is_right))

    def shadow(self) -> Shadow:
        found = champions(self.objects, dataset="digits")[-1].shadow
        assert found is not None
        return found

    def damage(self) -> list[str]:
        return [str(error) for error in ChampionLog(self.objects, "keras", "digits").damage()]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return a folder with a champion that is wrong about each tenth picture, and a shadow that never is."""
    folder = Folder(LocalObjects(tmp_path))
    assert folder.night(champion).promote
    assert not folder.night(lambda number: champion(number) or number < 3).promote
    folder.is_right[2] = always
    return folder


def champion(number: int) -> bool:
    return number % 10 != 0


def always(number: int) -> bool:
    return True


def test_a_refused_version_becomes_the_shadow_and_is_promoted_by_new_pictures_of_both_splits(folder: Folder) -> None:
    assert folder.shadow() == Shadow(version=2, commit_sha256=folder.shadow().commit_sha256, number=1)
    decision = folder.night(champion, range(2_000, 2_060), range(3_000, 3_020))
    assert not decision.promote
    assert folder.asked[-2:] == [(number, [*range(2_000, 2_060), *range(3_000, 3_020)]) for number in (2, 1)]
    assert (folder.shadow().total, folder.shadow().nights) == (AnswerCounts(80, 72, 8, 0), 1)
    assert decision.why.endswith(
        "meanwhile, keras@2 gained 8 and lost 0 of 80 new pictures (evidence 56.8 of the 80 that it needs; at this"
        " rate, 1 more night would do)"
    )
    decision = folder.night(champion, range(2_060, 2_080))
    assert not decision.promote  # the version of this night
    assert decision.why == (
        "keras@2 becomes the champion: it gained 10 and lost 0 of 100 pictures that arrived in 2 nights, which"
        " neither it nor keras@1 was trained on (evidence 186; it needed 80)"
    )
    record = champions(folder.objects, dataset="digits")[-1]
    assert (record.version, record.kind, record.challenged_by) == (2, "promote", None)
    assert record.statistics["evidence"] == pytest.approx(2**11 / 11, rel=1e-3)
    assert record.test is not None
    assert (record.test.correct, record.test.total) == (111, 120)  # 91 at first, and all of the 20 new ones
    assert folder.damage() == []
    assert not folder.night(champion).promote
    assert (folder.shadow().version, folder.shadow().number) == (5, 2)
    assert folder.shadow().needed(RULE.shadows_alpha) == pytest.approx(240)
    assert folder.damage() == []


def test_a_resumed_night_and_a_picture_that_was_removed_and_added_again_count_once(folder: Folder) -> None:
    folder.train += range(2_000, 2_020)
    version = folder.publish(champion)
    decision = folder.promote(version)
    assert folder.promote(version).why == decision.why
    assert (folder.shadow().total.images, folder.shadow().nights) == (20, 1)
    folder.train = folder.train[:-20]
    folder.night(champion)
    folder.night(champion, range(2_000, 2_030))
    assert (folder.shadow().total.images, folder.shadow().nights) == (30, 3)
    folder.night(champion, range(2_030, 2_050))
    assert (folder.shadow().total, folder.shadow().nights) == (AnswerCounts(50, 45, 5, 0), 4)


def test_a_resumed_night_that_promoted_the_shadow_decides_nothing_else(folder: Folder) -> None:
    folder.train += range(2_000, 2_200)
    version = folder.publish(champion)
    decision = folder.promote(version)
    assert champions(folder.objects, dataset="digits")[-1].version == 2
    records = len(champions(folder.objects, dataset="digits"))
    again = folder.promote(version)
    assert (again.promote, again.why) == (False, decision.why)
    assert len(champions(folder.objects, dataset="digits")) == records


def test_pictures_that_a_model_chose_and_all_but_one_of_a_group_are_not_counted(folder: Folder) -> None:
    folder.chosen = {2_000, 2_001}
    folder.groups = {2_002: 7, 2_003: 7, 2_004: 8, 1_000: 8}  # group 8 was in the folder before
    folder.night(champion, range(2_000, 2_010))
    assert folder.asked[-2:] == [(number, [2_002, *range(2_005, 2_010)]) for number in (2, 1)]
    folder.groups = {**folder.groups, 2_010: 7}
    folder.night(champion, range(2_010, 2_012))
    assert folder.asked[-1] == (1, [2_011])


def test_pictures_known_to_a_version_that_one_of_the_two_starts_from_are_not_counted(
    tmp_path: Path,
) -> None:
    folder, earlier = (Folder(LocalObjects(tmp_path)) for _ in range(2))
    earlier.train, earlier.test = [*range(2_000, 2_010)], [7]
    earlier.publish(always)
    folder.init_from = "keras@1"
    assert folder.night(champion).promote
    folder.init_from = None
    assert not folder.night(lambda number: champion(number) or number < 3).promote
    folder.night(champion, range(2_000, 2_030))
    assert folder.asked == [(number, [*range(2_010, 2_030)]) for number in (3, 2)]


def test_the_newest_version_takes_the_place_of_a_shadow_after_some_nights(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_lib.store.champions.challenge.MAX_NIGHTS", 4)  # for time
    for _ in range(4):
        assert folder.shadow().version == 2
        folder.night(champion)
    assert (folder.shadow().version, folder.shadow().number) == (6, 2)
    assert folder.asked == []  # there was nothing new
    assert folder.damage() == []


def test_another_champion_ends_a_shadow_and_the_next_one_needs_more_evidence(folder: Folder) -> None:
    folder.chosen = {*range(3_000, 3_100)}  # not counted for the shadow, which would win as well
    assert folder.night(always, test=range(3_000, 3_100)).promote
    record = champions(folder.objects, dataset="digits")[-1]
    assert (record.version, record.shadow, record.shadows) == (3, None, 1)
    rollback(folder.objects, "keras", "digits")
    assert not folder.night(champion).promote
    assert (folder.shadow().version, folder.shadow().number) == (4, 2)


def test_a_shadow_that_cannot_answer_gives_way_to_the_newest_version(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.fails = {2}
    assert not folder.night(champion, range(2_000, 2_020)).promote
    assert (folder.shadow().version, folder.shadow().number) == (3, 2)
    assert "keras@2 can no longer be compared with the champion: its code is not trusted" in caplog.text


def test_a_damaged_file_of_counted_pictures_ends_no_shadow_and_is_named(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.night(champion, range(2_000, 2_020))
    (path,) = Path(folder.objects.where("models/keras/counted/digits")).iterdir()
    content = path.read_bytes()
    path.write_bytes(b"damaged")
    folder.night(champion, range(2_020, 2_030))
    assert f"no new picture is counted for keras@2: models/keras/counted/digits/{path.name}" in caplog.text
    path.write_bytes(content)
    assert (folder.shadow().version, folder.shadow().total.images) == (2, 20)
    folder.night(champion)
    assert (folder.shadow().version, folder.shadow().total.images, folder.shadow().nights) == (2, 30, 2)


def test_a_shadow_that_gc_was_about_to_delete_gives_way_to_the_newest_version(folder: Folder) -> None:
    shadow = require_version(folder.objects, "keras", 2)
    assert condemn(folder.objects, shadow, read_hold_state(folder.objects, "keras", 2))
    assert not folder.night(champion, range(2_000, 2_020)).promote
    assert (folder.shadow().version, folder.shadow().number) == (3, 2)


def test_pictures_of_a_night_whose_process_dies_in_a_prediction_count_when_it_is_resumed(folder: Folder) -> None:
    folder.test += range(2_000, 2_200)
    version, predict = folder.publish(champion), folder.predict

    def dying(numbers: list[int], version: Version, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        if len(folder.asked) == 3:  # the new pictures by both, before the shadow answers the hold-out
            raise KilledError
        return predict(numbers, version, rows)

    with mock.patch.object(folder, "predict", dying), pytest.raises(KilledError):
        folder.promote(version)
    assert folder.promote(version).instead == 2


def test_a_shadow_in_a_damaged_record_is_counted(folder: Folder) -> None:
    folder.objects.replace("models/keras/champions/digits/00000002.json", b"damaged")
    assert rollback(folder.objects, "keras", "digits").shadows == 1
    assert not folder.night(champion).promote
    assert newest(folder.objects, "keras", "digits").shadow.number == 2  # type: ignore[union-attr]


def test_gc_keeps_the_shadow_and_says_why(folder: Folder) -> None:
    for _ in range(3):
        folder.night(champion)
    reasons = collect(folder.objects, "keras", keep=1).reasons
    assert reasons["keras@2"] == "compared with the champion on new pictures"
    assert reasons["keras@3"].startswith("held until")  # no longer than that


def test_verify_finds_counts_that_were_changed_and_a_promotion_without_evidence(folder: Folder) -> None:
    folder.night(champion, range(2_000, 2_020))
    folder.night(champion, range(2_020, 2_200))
    assert folder.damage() == []
    log = Path(folder.objects.where("models/keras/champions/digits"))
    content, head = ((log / name).read_bytes() for name in ("00000004.json", "head.json"))
    for counts, expected in (
        ((19, 0, 19, 0), "expected counts that follow from the records before, got others"),
        ((22, 18, 4, 0), "expected evidence of 80 for keras@2, got 6.2"),
    ):
        classes = {"0": dict(zip(("images", "champion", "gained", "lost"), counts, strict=True))}
        reseal(log / "00000004.json", {"shadow": {**vars(folder.shadow()), "weights": {}, "classes": classes}})
        digest = hashlib.sha256((log / "00000004.json").read_bytes()).hexdigest()
        reseal(log / "head.json", {"record_sha256": digest})  # whoever can write the log can write the head
        assert any(expected in text for text in folder.damage())
        (log / "00000004.json").write_bytes(content)
        (log / "head.json").write_bytes(head)
    counted, _ = sorted(Path(folder.objects.where("models/keras/counted/digits")).iterdir())
    counted.unlink()
    assert any(counted.name in text for text in folder.damage())
