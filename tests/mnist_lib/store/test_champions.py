"""The log of champions: promotion and roll-back, at once and with faults at every step."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_lib.errors import IntegrityError, SpecError, StoreError
from mnist_lib.store.champions import champion, champion_at, history, promote, rollback
from mnist_lib.store.objects import LocalObjects, Objects
from mnist_lib.store.promotion import Decision, decide
from mnist_lib.store.versions import Version, find, publish, verify, version_folder
from tests.mnist_lib.store.faulty import FAULTS, Faulty, KilledError
from tests.mnist_lib.store.versions_of import about, files


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def published(objects: Objects, right: int) -> Version:
    return publish(objects, "keras", f"run-{right}", files(right), about())[0]


def champion_version(objects: Objects) -> int | None:
    """Of the log, complete and verified."""
    record = champion(objects, "keras")
    if record is None:
        return None
    version = find(objects, "keras", record.version)
    assert version is not None
    verify(objects, version)
    return version.number


def test_a_better_version_takes_the_place_and_says_why(objects: LocalObjects) -> None:
    for right in (100, 150, 151):
        promote(objects, published(objects, right), decide)
    assert champion_version(objects) == 2
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
        versions = [
            publish(objects, "keras", f"{attempt}-{right}", files(right), about())[0] for right in (120, 180, 60)
        ]
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda version: promote(objects, version, decide), versions))
        log = history(objects, "keras")
        assert [record.number for record in log] == list(range(1, len(log) + 1))
        assert [record.replaced for record in log[1:]] == [record.version for record in log[:-1]]
        assert champion_version(objects) == 2  # the first of 180 right; equals do not replace it


def test_the_champion_of_a_time(objects: LocalObjects) -> None:
    promote(objects, published(objects, 50), decide)
    (record,) = history(objects, "keras")
    assert champion_at(objects, "keras", record.at) == record
    assert champion_at(objects, "keras", "2000-01-01T00:00:00Z") is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b'{"number": 7}'])
def test_a_record_that_is_none_is_an_integrity_error(objects: LocalObjects, content: bytes) -> None:
    objects.create("models/keras/champion/00000001.json", content)
    with pytest.raises(IntegrityError, match="keras: champion record 1: expected a record"):
        champion(objects, "keras")


@pytest.mark.parametrize(("error", "late"), FAULTS)
@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_a_fault_at_any_operation_leaves_a_champion_that_is_whole_and_the_retry_succeeds(
    tmp_path: Path, action: str, error: type[BaseException], late: bool
) -> None:
    def act(objects: Objects) -> None:
        if action == "promote":
            version = find(objects, "keras", 3)
            assert version is not None
            promote(objects, version, decide)
        else:
            rollback(objects, "keras", to=1)

    expected = 3 if action == "promote" else 1
    for at in range(1, 200):
        objects = LocalObjects(tmp_path / str(at))
        first, second, _ = (published(objects, right) for right in (50, 100, 150))
        for version in (first, second):
            promote(objects, version, decide)
        faulty = Faulty(objects, at, error, late=late)
        try:
            act(faulty)
        except (StoreError, KilledError):
            assert champion_version(objects) in (2, expected)
        else:
            assert faulty.operations < at
            break
        act(objects)
        assert champion_version(objects) == expected
        assert len(history(objects, "keras")) == 3
    else:
        pytest.fail("there is no end")
    assert at > 8
