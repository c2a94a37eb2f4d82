"""The log of champions: promotion and roll-back, at once and with faults at every step."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.store.champions import champion, champion_at, history, promote, rollback
from mnist_lib.store.local import LocalObjects
from mnist_lib.store.objects import Objects
from mnist_lib.store.promotion import Decision, decide
from mnist_lib.store.records import seal
from mnist_lib.store.versions import Version, publish, version_folder
from tests.mnist_lib.store.invariants import champion_verified
from tests.mnist_lib.store.versions_of import about, files


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def published(objects: Objects, right: int) -> Version:
    return publish(objects, "keras", f"run-{right}", files(right), about())


def test_a_better_version_takes_the_place_and_says_why(objects: LocalObjects) -> None:
    for right in (100, 150, 151):
        promote(objects, published(objects, right), decide)
    assert champion_verified(objects) == 2
    first, second = history(objects, "keras")
    assert (first.kind, first.version, first.replaced, first.run) == ("promote", 1, None, "run-100")
    assert (second.kind, second.version, second.replaced, second.run) == ("promote", 2, 1, "run-150")
    assert second.why == "keras@2 has 75.00%, keras@1 50.00%: 50 images gained, 0 lost, p = 1.8e-15"
    assert second.statistics["gained"] == 50


def test_the_champion_is_not_promoted_again(objects: LocalObjects) -> None:
    version = published(objects, 100)
    assert promote(objects, version, decide).promote
    assert promote(objects, version, decide) == Decision(False, "keras@1 is the champion already", {})
    assert len(history(objects, "keras")) == 1


def test_roll_backs_go_back_one_by_one_and_forth_by_name(objects: LocalObjects) -> None:
    for right in (50, 100, 150):
        promote(objects, published(objects, right), decide)
    assert rollback(objects, "keras").version == 2
    assert rollback(objects, "keras").version == 1
    with pytest.raises(SpecError, match="keras@1 is the first champion"):
        rollback(objects, "keras")
    assert rollback(objects, "keras", to=3).version == 3
    assert rollback(objects, "keras", to=3).version == 3  # as often as one likes
    assert [(r.kind, r.version) for r in history(objects, "keras")][3:] == [("rollback", n) for n in (2, 1, 3)]


def test_what_cannot_be_rolled_back_to_is_named(objects: LocalObjects) -> None:
    with pytest.raises(SpecError, match="there is no champion to roll back"):
        rollback(objects, "keras")
    promote(objects, published(objects, 50), decide)
    with pytest.raises(SpecError, match="keras@9: there is no such version"):
        rollback(objects, "keras", to=9)


def test_a_damaged_challenger_is_not_promoted_and_a_damaged_champion_can_be_rolled_back(
    objects: LocalObjects, tmp_path: Path
) -> None:
    first, second, third = (published(objects, right) for right in (50, 100, 150))
    for version in (first, second):
        promote(objects, version, decide)
    (tmp_path / version_folder("keras", 2) / "predictions.npz").write_bytes(b"damaged")
    decision = promote(objects, third, decide)
    assert not decision.promote
    assert "the champion is damaged, roll it back first (keras@2: predictions.npz" in decision.why
    assert rollback(objects, "keras").version == 1
    assert promote(objects, third, decide).promote
    with pytest.raises(IntegrityError, match=r"^keras@2"):
        promote(objects, second, decide)
    with pytest.raises(IntegrityError, match=r"^keras@2"):
        rollback(objects, "keras", to=2)


def test_of_two_promoted_at_once_the_better_ends_as_champion(objects: LocalObjects) -> None:
    for attempt in range(5):
        versions = [publish(objects, "keras", f"{attempt}-{right}", files(right), about()) for right in (120, 180, 60)]
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda version: promote(objects, version, decide), versions))
        log = history(objects, "keras")
        assert [record.number for record in log] == list(range(1, len(log) + 1))
        assert [record.replaced for record in log[1:]] == [record.version for record in log[:-1]]
        assert champion_verified(objects) == 2  # the first of 180 right; equals do not replace it


def test_the_champion_of_a_time(objects: LocalObjects) -> None:
    promote(objects, published(objects, 50), decide)
    (record,) = history(objects, "keras")
    assert champion_at(objects, "keras", record.at) == record
    assert champion_at(objects, "keras", "2000-01-01T00:00:00Z") is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b'{"number": 7}', seal({"number": 7})])
def test_a_record_that_is_none_is_an_integrity_error(objects: LocalObjects, content: bytes) -> None:
    objects.create("models/keras/champion/00000001.json", content)
    with pytest.raises(IntegrityError, match=r"keras: champion record 1: expected a record"):
        champion(objects, "keras")
