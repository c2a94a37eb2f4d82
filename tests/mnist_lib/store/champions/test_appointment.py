"""The log of champions: promotion and roll-back, including concurrent ones and damaged records."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from mnist_lib.errors import IntegrityError, SpecError
from mnist_lib.objects.local import LocalObjects
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.records import seal
from mnist_lib.store.champions.appointment import champion, history, rollback
from mnist_lib.store.champions.challenge import promote
from mnist_lib.store.champions.log import Champion
from mnist_lib.store.champions.promotion import Rule
from mnist_lib.store.publishing import collect
from mnist_lib.store.versions import find, version_folder
from tests.support.store.faulty import Interrupted
from tests.support.store.invariants import champion_verified, champions
from tests.support.store.scenarios import published


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


def test_p5_a_better_version_becomes_champion_and_the_record_says_why(objects: LocalObjects) -> None:
    for right in (100, 150, 151):
        promote(objects, published(objects, right), Rule())
    assert champion_verified(objects) == 2
    first, second, third = champions(objects)
    assert (first.kind, first.version, first.replaced, first.run) == ("promote", 1, None, "run-100")
    assert (second.kind, second.version, second.replaced, second.run) == ("promote", 2, 1, "run-150")
    assert second.why == "keras@2 has 75.00%, keras@1 50.00%; 50 images gained, 0 lost, p = 8.9e-16"
    assert second.statistics["gained"] == 50
    assert (third.kind, third.version, third.replaced, third.challenger, third.run) == ("keep", 2, 2, 3, "run-151")
    assert third.why.endswith(
        "1 image gained, 0 lost, p = 0.5: may be chance, since p is not below 0.0033; at these rates, about 1,500 test"
        " images would decide: label random new pictures, or use jobs.models promote keras@3 --always"
    )


def test_the_champion_is_not_promoted_again(objects: LocalObjects) -> None:
    version = published(objects, 100)
    assert promote(objects, version, Rule()).promote
    again = promote(objects, version, Rule())
    assert (again.promote, again.why) == (False, "keras@1 is already the champion")
    assert len(champions(objects)) == 1


def test_p6_a_roll_back_goes_one_version_back_or_idempotently_to_a_given_one(objects: LocalObjects) -> None:
    for right in (50, 100, 150):
        promote(objects, published(objects, right), Rule())
    assert rollback(objects, "keras", "mnist").version == 2
    assert rollback(objects, "keras", "mnist").version == 1
    with pytest.raises(SpecError, match="keras@1 is the first champion"):
        rollback(objects, "keras", "mnist")
    assert rollback(objects, "keras", "mnist", to=3).version == 3
    assert rollback(objects, "keras", "mnist", to=3).version == 3
    assert [(r.kind, r.version) for r in champions(objects)][3:] == [("rollback", n) for n in (2, 1, 3)]


def test_a_roll_back_to_a_version_that_does_not_exist_is_refused(objects: LocalObjects) -> None:
    with pytest.raises(SpecError, match="keras: expected a champion for mnist to roll back, got none"):
        rollback(objects, "keras", "mnist")
    promote(objects, published(objects, 50), Rule())
    with pytest.raises(SpecError, match="keras@9: there is no such version"):
        rollback(objects, "keras", "mnist", to=9)


def test_s8_a_damaged_version_is_not_promoted_and_can_be_rolled_back(objects: LocalObjects, tmp_path: Path) -> None:
    first, second, third = (published(objects, right) for right in (50, 100, 150))
    for version in (first, second):
        promote(objects, version, Rule())
    (tmp_path / version_folder("keras", 2) / "predictions.npz").write_bytes(b"damaged")
    decision = promote(objects, third, Rule())
    assert not decision.promote
    assert "the champion is damaged; roll it back first (keras@2: predictions.npz" in decision.why
    assert rollback(objects, "keras", "mnist").version == 1
    assert promote(objects, third, Rule()).promote
    with pytest.raises(IntegrityError, match=r"^keras@2"):
        promote(objects, second, Rule())
    with pytest.raises(IntegrityError, match=r"^keras@2"):
        rollback(objects, "keras", "mnist", to=2)


def test_s5_the_best_of_three_concurrent_promotions_becomes_champion(tmp_path: Path) -> None:
    for attempt in range(10):
        objects = LocalObjects(tmp_path / str(attempt))
        versions = [published(objects, right) for right in (120, 180, 60)]
        with ThreadPoolExecutor(3) as pool:
            decisions = list(pool.map(lambda version, at=objects: promote(at, version, Rule()), versions))
        log = champions(objects)
        assert [record.number for record in log] == list(range(1, len(log) + 1))
        promoted = [number for number, decision in enumerate(decisions, 1) if decision.promote]
        assert sorted(record.version for record in log if record.kind == "promote") == promoted
        assert champion_verified(objects) == 2
        losers = [decision for decision in (decisions[0], decisions[2]) if not decision.promote]
        assert all("keras@2 90.00%" in decision.why for decision in losers) or len(log) > 1


@pytest.mark.slow
@pytest.mark.parametrize("first", ["promotion", "roll-back"])
def test_s5_concurrent_promotion_and_roll_back_act_as_if_one_ran_after_the_other(tmp_path: Path, first: str) -> None:
    def act(what: str, objects: Objects) -> None:
        if what == "promotion":
            version = find(objects, "keras", 3)
            assert version is not None
            promote(objects, version, Rule())
        else:
            rollback(objects, "keras", "mnist", to=1)

    def act_second(objects: Objects) -> None:
        act("roll-back" if first == "promotion" else "promotion", objects)

    prepared = LocalObjects(tmp_path / "prepared")
    for right in (50, 100):
        promote(prepared, published(prepared, right), Rule())
    published(prepared, 150)
    # The last operation of each creates its record, so whoever is interrupted before it is the second.
    expected = (1, 2, 1, 3) if first == "promotion" else (1, 2, 3, 1)
    for at in range(1, 200):
        objects = LocalObjects(shutil.copytree(tmp_path / "prepared", tmp_path / str(at)))
        interrupted = Interrupted(objects, at, act_second)
        act(first, interrupted)
        if interrupted.operations < at:
            break
        log = champions(objects)
        assert [record.number for record in log] == [1, 2, 3, 4]
        assert champion_verified(objects) == log[-1].version
        assert tuple(record.version for record in log) == expected
    assert 5 < at < 199


def test_p6_two_concurrent_roll_backs_append_one_record(tmp_path: Path) -> None:
    for attempt in range(10):
        objects = LocalObjects(tmp_path / str(attempt))
        for right in (50, 100, 150):
            promote(objects, published(objects, right), Rule())
        with ThreadPoolExecutor(2) as pool:
            records = list(pool.map(lambda _, at=objects: rollback(at, "keras", "mnist", to=2), range(2)))
        assert {record.version for record in records} == {2}
        assert len(champions(objects)) == 4


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b'{"number": 7}', seal({"number": 7}), b'{"schema": NaN}'])
def test_s9_a_damaged_champion_record_is_an_integrity_error(objects: LocalObjects, content: bytes) -> None:
    objects.create("models/keras/champions/mnist/00000001.json", content)
    with pytest.raises(IntegrityError, match=r"models/keras/champions/mnist/00000001.json: expected a record"):
        champion(objects, "keras", "mnist")


def test_p6_a_damaged_champion_record_leaves_others_readable_and_can_be_rolled_back(
    objects: LocalObjects, tmp_path: Path
) -> None:
    times = ["2026-11-01T03:00:00Z", "2026-11-02T03:00:00Z", "2026-11-03T03:00:00Z", "2026-11-04T03:00:00Z"]
    with mock.patch("mnist_lib.store.champions.log.now_text", side_effect=times):
        versions = [published(objects, right) for right in (50, 100, 150)]
        for version in versions[:2]:
            promote(objects, version, Rule())
        (tmp_path / "models/keras/champions/mnist/00000002.json").write_bytes(b"damaged")
        decision = promote(objects, versions[2], Rule())
        assert not decision.promote
        assert "the champion is damaged; roll it back first (models/keras/champions/mnist/00000002.json" in decision.why
        with pytest.raises(IntegrityError, match="the champion is unknown: roll back first"):
            collect(objects, "keras", keep=1)
        record = rollback(objects, "keras", "mnist")
        assert (record.version, record.replaced, record.number) == (1, None, 3)
        assert promote(objects, versions[2], Rule()).promote
    assert champion(objects, "keras", "mnist").version == 3  # type: ignore[union-attr]
    assert [isinstance(record, Champion) for record in history(objects, "keras", "mnist")] == [True, False, True, True]
    assert collect(objects, "keras", keep=1).damaged == []
